"""Whether a value is what the program declares it to be."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

from lvexport.validation.mil import types
from lvexport.validation.mil.lists import TensorList
from lvexport.validation.mil.nesting import Value
from lvexport.validation.mil.numerics import CARRIERS, same_class
from lvexport.validation.mil.states import Cell
from lvexport.validation.mil.types import DictType, ListType, StateType, TensorType, ValueType

Plain: TypeAlias = tuple[torch.dtype, torch.Size]


def conforms(value: Value, declared: ValueType) -> bool:
    """Whether ``value`` is of that type. The length of a list is not compared: coremltools writes the first one."""
    if isinstance(value, Tensor):
        return (
            isinstance(declared, TensorType)
            and declared.dtype is not types.STRING
            and declared.admits(tuple(value.shape))
            and same_class(value, declared.dtype)
        )
    if isinstance(value, TensorList):
        return isinstance(declared, ListType) and _same_elements(value.element, declared.element)
    if isinstance(value, Cell):
        return declared == StateType(value.type)
    if isinstance(value, dict):
        return isinstance(declared, DictType)
    return declared == TensorType(types.STRING if isinstance(value, str) else types.INT64, ())


def form_of(declared: ValueType) -> Plain | None:
    """The one form that nearly every value of that type has, to be compared at once; None if it has several."""
    if not isinstance(declared, TensorType) or declared.any_rank or declared.dtype not in CARRIERS:
        return None
    sizes = [size for size in declared.shape if size is not None]
    return (CARRIERS[declared.dtype], torch.Size(sizes)) if len(sizes) == len(declared.shape) else None


def described(value: Value) -> str:
    """A value's type for a message."""
    if isinstance(value, Tensor):
        return f"{value.dtype} {tuple(value.shape)}"
    if isinstance(value, TensorList):
        return f"a list of {value.element}"
    return f"a {type(value).__name__}"


def _same_elements(made: TensorType, declared: ValueType) -> bool:
    # A dimension that one of them leaves open is checked when an element is written or read.
    return (
        isinstance(declared, TensorType)
        and made.dtype is declared.dtype
        and len(made.shape) == len(declared.shape)
        and all(None in pair or pair[0] == pair[1] for pair in zip(made.shape, declared.shape, strict=True))
    )
