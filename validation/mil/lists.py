"""Lists of tensors, as ``make_list`` and the operations on lists handle them (``iOS15/control_flow.py``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lvexport.validation.mil.numerics import CARRIERS
from lvexport.validation.mil.types import TensorType


@dataclass(frozen=True)
class TensorList:
    """A list at one moment: writing to it makes another one.

    Only what was written is kept, so that a length costs no memory before something is written there.

    Attributes:
        element: type of every element; a dimension of it may be known only when the model runs.
        length: number of elements.
        grows: whether a write beyond the end makes the list longer.
        written: the elements that were written, by place.
        bytes: that these take.
    """

    element: TensorType
    length: int
    grows: bool
    written: Mapping[int, Tensor] = field(default_factory=dict)
    bytes: int = 0

    def __post_init__(self) -> None:
        if self.length < 0:
            raise ValueError(f"a list cannot have {self.length} elements")

    def read(self, index: int) -> Tensor:
        """Element ``index``; zeros if it was never written, as coremltools' tests of lists expect."""
        self._require(0 <= index < self.length, index)
        return self.written[index] if index in self.written else torch.zeros(self.shape(), dtype=self._carrier)

    def write(self, updates: Mapping[int, Tensor]) -> TensorList:
        """The list with ``updates`` in their places; longer if it grows and they lie beyond its end."""
        for index, value in updates.items():
            self._require(index >= 0 and (self.grows or index < self.length), index)
            if not self.element.admits(tuple(value.shape)):
                raise ValueError(f"a list of {self.element} cannot hold an element of shape {tuple(value.shape)}")
        length = max(self.length, *(index + 1 for index in updates)) if updates else self.length
        size = self.bytes + sum(value.nbytes for value in updates.values())
        size -= sum(self.written[index].nbytes for index in updates if index in self.written)
        return replace(self, length=length, written={**self.written, **updates}, bytes=size)

    def shape(self) -> tuple[int, ...]:
        """Of an element: as declared, or where that leaves something open, that of the elements written so far."""
        known = tuple(size for size in self.element.shape if size is not None)
        if len(known) == len(self.element.shape):
            return known
        for value in self.written.values():
            return tuple(value.shape)
        raise ValueError("nothing was written to the list, so the shape of its elements is unknown")

    @property
    def _carrier(self) -> torch.dtype:
        return CARRIERS[self.element.dtype]

    def _require(self, inside: bool, index: int) -> None:
        if not inside:
            raise IndexError(f"there is no element {index} in a list of {self.length}")
