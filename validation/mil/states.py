"""States: tensors that outlive a prediction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lvexport.validation.mil.errors import BadInput, DamagedPackage
from lvexport.validation.mil.numerics import CARRIERS, to_array, to_tensor
from lvexport.validation.mil.program import NamedType
from lvexport.validation.mil.types import LARGEST_VALUE, Array, StateType, TensorType


@dataclass
class Cell:
    """One state variable. Its tensor is replaced, never written into: values that were read before stay."""

    type: TensorType
    value: Tensor


class State:
    """The states of a model between predictions, zero at first; what coremltools calls ``MLState``.

    One may be passed to many predictions of the model that made it, and a model may have many.
    """

    def __init__(self, cells: Mapping[str, Cell]) -> None:
        self.cells = dict(cells)

    def read_state(self, name: str) -> Array:
        """A copy of the state ``name``.

        Raises:
            BadInput: there is no such state.
        """
        cell = self._cell(name)
        return to_array(cell.value, cell.type.dtype)

    def write_state(self, name: str, value: Any) -> None:
        """Sets the state ``name`` to an array (anything that NumPy takes) of its shape.

        Raises:
            BadInput: there is no such state, or the array is not of its shape.
        """
        cell = self._cell(name)
        array = np.asarray(value)
        if array.dtype.kind not in "biuf" or not cell.type.admits(array.shape):
            raise BadInput(f"The state {name!r} is {cell.type}; given was {array.dtype} {array.shape}.")
        with np.errstate(over="ignore"):
            cell.value = to_tensor(np.array(array, dtype=cell.type.dtype.numpy), cell.type.dtype)

    def _cell(self, name: str) -> Cell:
        if name not in self.cells:
            raise BadInput(
                f"There is no state {name!r}; the model keeps {', '.join(sorted(self.cells)) or 'no states'}."
            )
        return self.cells[name]


def state_types(inputs: Iterable[NamedType]) -> dict[str, TensorType]:
    """The states among a function's inputs, by name.

    Raises:
        DamagedPackage: a state that is not a tensor of known size, or states of absurd size.
    """
    found: dict[str, TensorType] = {}
    for value in inputs:
        if isinstance(value.type, StateType):
            if not isinstance(value.type.wrapped, TensorType) or value.type.wrapped.elements() is None:
                raise DamagedPackage(f"The program's state {value.name!r} is not a tensor of known size.")
            found[value.name] = value.type.wrapped
    if sum(held.elements() or 0 for held in found.values()) > LARGEST_VALUE:
        raise DamagedPackage(
            f"The program keeps the states {', '.join(map(str, found.values()))}; nothing on a phone is so large."
        )
    return found


def new_state(declared: Mapping[str, TensorType]) -> State:
    """A state of zeros."""
    return State(
        {
            name: Cell(held, torch.zeros([size or 0 for size in held.shape], dtype=CARRIERS[held.dtype]))
            for name, held in declared.items()
        }
    )
