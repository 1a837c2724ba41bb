"""How many multiply-accumulates a module takes, by torch's own counter. Importing this loads torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count


def _attention(query: torch.Size, key: torch.Size, value: torch.Size, *_: object, **__: object) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


# torch's own counter knows the fused attention of GPUs and leaves out that of CPUs.
_ON_CPU = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}


class Counter(FlopCounterMode):
    """Counts what runs while it is on; two FLOPs a multiply-accumulate."""

    def __init__(self) -> None:
        super().__init__(display=False, custom_mapping=_ON_CPU)

    @property
    def macs(self) -> int:
        return int(self.get_total_flops()) // 2


@torch.no_grad()
def macs(module: Callable[..., Any], inputs: tuple[Any, ...]) -> int:
    """Of one run over the inputs."""
    counter = Counter()
    with counter:
        module(*inputs)
    return counter.macs
