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

from lvexport.converters.macs import Counter
from lvexport.jobs import Cost


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
    """Run the model once and count."""
    counter, traffic = Counter(), _Traffic()
    with counter, traffic:
        model(*inputs)
    parameters = sum(p.numel() for p in model.parameters()) if isinstance(model, nn.Module) else 0
    return Cost(parameters, counter.macs, traffic.bytes, traffic.operators)
