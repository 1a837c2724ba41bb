"""Functions of two tensors, element by element with NumPy's broadcasting (``iOS15/elementwise_binary.py``)."""

from __future__ import annotations

import torch
from torch import Tensor

from lvexport.validation.mil.table import op


@op("add")
def add(x: Tensor, y: Tensor) -> Tensor:
    return x + y


@op("equal")
def equal(x: Tensor, y: Tensor) -> Tensor:
    return x == y


@op("floor_div")
def floor_div(x: Tensor, y: Tensor) -> Tensor:
    return torch.div(x, y, rounding_mode="floor")


@op("greater")
def greater(x: Tensor, y: Tensor) -> Tensor:
    return x > y


@op("greater_equal")
def greater_equal(x: Tensor, y: Tensor) -> Tensor:
    return x >= y


@op("less")
def less(x: Tensor, y: Tensor) -> Tensor:
    return x < y


@op("less_equal")
def less_equal(x: Tensor, y: Tensor) -> Tensor:
    return x <= y


@op("logical_and")
def logical_and(x: Tensor, y: Tensor) -> Tensor:
    return torch.logical_and(x, y)


@op("logical_or")
def logical_or(x: Tensor, y: Tensor) -> Tensor:
    return torch.logical_or(x, y)


@op("logical_xor")
def logical_xor(x: Tensor, y: Tensor) -> Tensor:
    return torch.logical_xor(x, y)


@op("maximum", exact=True)
def maximum(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x, y)


@op("minimum", exact=True)
def minimum(x: Tensor, y: Tensor) -> Tensor:
    return torch.minimum(x, y)


@op("mod")
def mod(x: Tensor, y: Tensor) -> Tensor:
    """As Python's ``%``: the result has the sign of ``y``."""
    return torch.remainder(x, y)


@op("mul")
def mul(x: Tensor, y: Tensor) -> Tensor:
    return x * y


@op("not_equal")
def not_equal(x: Tensor, y: Tensor) -> Tensor:
    return x != y


@op("pow")
def power(x: Tensor, y: Tensor) -> Tensor:
    return torch.pow(x, y)


@op("real_div")
def real_div(x: Tensor, y: Tensor) -> Tensor:
    """Of integers, without the fraction (tests/iOS14/test_elementwise_binary.py, test_real_div_int…)."""
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


@op("sub")
def sub(x: Tensor, y: Tensor) -> Tensor:
    return x - y
