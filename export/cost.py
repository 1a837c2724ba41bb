"""What one inference costs: operations, memory traffic, and their ratio.

Networks with equal MACs differ greatly in traffic, and accelerators are mostly bound by bandwidth, so the figures
always stand side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from lvexport.jobs import Cost


def _attention(query: torch.Size, key: torch.Size, value: torch.Size, *_: object, **__: object) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


# torch's own counter knows the fused attention of GPUs and leaves out that of CPUs.
_ON_CPU = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}


class _Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operators that run and the bytes that they read and write; views move nothing."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0
        self.operators: dict[str, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            touched = [t for t in tree_leaves((args, kwargs, result)) if isinstance(t, Tensor)]
            self.bytes += sum(t.numel() * t.element_size() for t in touched)
            name = func.overloadpacket.__name__
            self.operators[name] = self.operators.get(name, 0) + 1
        return result


@torch.no_grad()
def measure(model: nn.Module | Callable[..., Any], inputs: tuple[Tensor, ...]) -> Cost:
    """Run the model once and count. The FLOP counter is torch's own (two FLOPs a MAC)."""
    flops, traffic = FlopCounterMode(display=False, custom_mapping=_ON_CPU), _Traffic()
    with flops, traffic:
        model(*inputs)
    parameters = sum(p.numel() for p in model.parameters()) if isinstance(model, nn.Module) else 0
    return Cost(parameters, flops.get_total_flops() // 2, traffic.bytes, traffic.operators)
