"""Which networks of the registry would fit into a small memory, by estimate. Importing this loads torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lvexport.converters.derived import examples
from lvexport.converters.vela import KIB
from lvexport.models.errors import SizeError
from lvexport.models.registry import ENTRIES, Entry

SIZES = (256, 224, 192, 160, 128, 96, 64, 32)  # pixels a side that are tried, the largest first


class _Peak(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The most numbers that an operation takes and gives, parameters aside."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numbers = 0
        self._parameters = {id(p) for p in parameters}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            touched = {id(t): t for t in tree_leaves((args, kwargs, result)) if isinstance(t, Tensor)}
            self.numbers = max(self.numbers, sum(t.numel() for i, t in touched.items() if i not in self._parameters))
        return result


@torch.no_grad()
def peak(module: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """The numbers that the largest operation of a module takes and gives."""
    found = _Peak([*module.parameters(), *module.buffers()])
    with found:
        module(*inputs)
    return found.numbers


def advice(program: ExportedProgram, needs: Mapping[str, int], limits: Mapping[str, int]) -> str:
    """Which network would fit, where this one ``needs`` more than the ``limits``, all in bytes.

    Flash is taken to grow with parameters, SRAM with the largest operation, both as in the network that did not fit.
    """
    module = program.module()
    numbers = sum(t.numel() for t in (*module.parameters(), *module.buffers()))
    rates = {"flash": needs["flash"] / numbers, "sram": needs["sram"] / peak(module, examples(program))}
    for entry in sorted(ENTRIES.values(), key=lambda e: -e.parameters):
        flash = rates["flash"] * entry.parameters
        if flash > limits.get("flash", float("inf")):
            continue
        for size, sram in largest_first(entry, rates["sram"], limits.get("sram", float("inf"))):
            return (
                f"By estimate {entry.name} at {size} pixels would fit, with about {sram / KIB:,.0f} KiB of SRAM and "
                f"{flash / KIB:,.0f} KiB of flash."
            )
    return f"By estimate no network of the registry fits, down to {SIZES[-1]} pixels a side."


def largest_first(entry: Entry, rate: float, limit: float) -> Iterator[tuple[int, float]]:
    """The sizes at which a network's largest operation, ``rate`` bytes a number, is within the limit."""
    with torch.device("meta"):
        module = import_module(entry.module).build(entry.name, entry.num_classes).eval()
    sizes = [size for size in SIZES if takes(entry, size)]
    if sizes and rate * pixels(module, sizes[-1]) <= limit:
        found = ((size, rate * pixels(module, size)) for size in sizes)
        yield from (pair for pair in found if pair[1] <= limit)


def takes(entry: Entry, size: int) -> bool:
    try:
        entry.check_size(size)
    except SizeError:
        return False
    return size <= entry.imgsz


def pixels(module: nn.Module, size: int) -> int:
    """:func:`peak` for a picture of that size; without computing anything where the module is on ``meta``."""
    return peak(module, (torch.empty(1, 3, size, size, device="meta"),))
