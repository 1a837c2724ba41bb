"""What a model gives as the row of tensors that converters know. Importing this loads torch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn


def tensors_of(given: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """Every tensor in dictionaries, rows, named tuples and dataclasses, within each other too, with where it lies.

    What is no tensor is left out.
    """
    if isinstance(given, Tensor):
        yield path, given
        return
    for name, part in _parts(given):
        yield from tensors_of(part, (*path, name))


def _parts(given: Any) -> list[tuple[str, Any]]:
    if isinstance(given, Mapping):
        return [(str(name), part) for name, part in given.items()]
    if hasattr(given, "_fields"):
        return list(zip(given._fields, given, strict=True))
    if isinstance(given, tuple | list):
        return [(str(place), part) for place, part in enumerate(given)]
    if is_dataclass(given) and not isinstance(given, type):
        return [(field.name, getattr(given, field.name)) for field in fields(given)]
    return []


def is_plain(given: Any) -> bool:
    """Whether converters know what a model gives as it is."""
    if isinstance(given, tuple | list) and not hasattr(given, "_fields"):
        return len(given) > 0 and all(isinstance(part, Tensor) for part in given)
    return isinstance(given, Tensor)


def names_of(given: Any, taken: Sequence[str]) -> list[str]:
    """Names for a model's outputs, none of ``taken``: its own for them, or else ``output_0`` and so on."""
    paths = [path for path, _ in tensors_of(given)]
    named = [re.sub(r"\W", "_", "_".join(path)) for path in paths]
    usable = len({*named, *taken}) == len(named) + len(taken) and all(name.isidentifier() for name in named)
    return named if usable else [f"output_{place}" for place in range(len(paths))]


class Plain(nn.Module):
    """Gives a model's tensors as a tuple."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor for _, tensor in tensors_of(self.model(*inputs)))
