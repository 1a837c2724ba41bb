"""Choice by element (``iOS15/control_flow.py``). Operations with blocks are not in the table yet."""

from __future__ import annotations

import torch
from torch import Tensor

from lvexport.validation.mil.table import op


@op("select", exact=True)
def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(cond, a, b)
