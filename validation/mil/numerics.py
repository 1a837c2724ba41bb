"""How values of the program are held as torch tensors, and in which ways half precision can be computed.

A value that the program declares as ``fp16`` is held in float32. By default every operation that makes one rounds its
result to float16, overflow going to infinity, and sums are accumulated in float32. Devices differ, and
:class:`Numerics` has the other ways. Unsigned integers that torch has little arithmetic for are held in the next
wider signed type.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import numpy as np
import torch
from torch import Tensor

from lvexport.validation.mil import types
from lvexport.validation.mil.errors import BadInput
from lvexport.validation.mil.halves import Halves
from lvexport.validation.mil.sums import SINGLE, Sums
from lvexport.validation.mil.types import Array, DType, TensorType, ValueType


class Numerics(Enum):
    """How a half-precision program is computed. What it declares as another type is the same in all of them.

    Attributes:
        EXACT: as if it were declared float32: nothing is rounded to float16, and nothing overflows there.
        ROUNDED: every result is rounded to float16; operations compute, and sums are accumulated, in float32.
        PESSIMISTIC: as ROUNDED, and sums are accumulated in float16, term by term (``halves``).

    Constants are what the package stores, in all of them.
    """

    EXACT = "exact"
    ROUNDED = "rounded"
    PESSIMISTIC = "pessimistic"

    @classmethod
    def named(cls, name: str) -> Numerics:
        """The numerics called so. Raises BadInput."""
        try:
            return cls(name)
        except ValueError:
            known = ", ".join(numerics.value for numerics in cls)
            raise BadInput(f"There are no numerics called {name!r}. Half precision can be computed: {known}.") from None

    @property
    def rounds(self) -> bool:
        """Whether results are rounded to float16."""
        return self is not Numerics.EXACT

    def sums(self, outputs: Sequence[ValueType]) -> Sums:
        """How an operation adds up that makes values of these types."""
        return Halves() if self is Numerics.PESSIMISTIC and any(map(is_half, outputs)) else SINGLE

    def shown(self, dtype: DType) -> DType:
        """The type in which values of that type leave the interpreter: float16 as it is computed, so that one sees."""
        return types.FLOAT32 if self is Numerics.EXACT and dtype is types.FLOAT16 else dtype


CARRIERS = {
    types.BOOL: torch.bool,
    types.FLOAT16: torch.float32,
    types.FLOAT32: torch.float32,
    types.FLOAT64: torch.float64,
    types.INT4: torch.int8,
    types.INT8: torch.int8,
    types.INT16: torch.int16,
    types.INT32: torch.int32,
    types.INT64: torch.int64,
    types.UINT1: torch.uint8,
    types.UINT2: torch.uint8,
    types.UINT3: torch.uint8,
    types.UINT4: torch.uint8,
    types.UINT6: torch.uint8,
    types.UINT8: torch.uint8,
    types.UINT16: torch.int32,
    types.UINT32: torch.int64,
    types.UINT64: torch.int64,
}


def to_tensor(array: Array, dtype: DType) -> Tensor:
    """The carrier of an array whose elements are of MIL's type ``dtype``; shares its memory where it can."""
    if dtype in (types.UINT16, types.UINT32, types.UINT64):
        array = array.astype(np.int64)
    return torch.from_numpy(np.asarray(array)).to(CARRIERS[dtype])


def to_array(tensor: Tensor, dtype: DType) -> Array:
    """A new array with the elements of a carrier, in the NumPy type that MIL's ``dtype`` has outside."""
    return np.array(tensor.numpy(), dtype=dtype.numpy, order="C")


def is_half(declared: ValueType) -> bool:
    """Whether a value of that type is a tensor of float16."""
    return isinstance(declared, TensorType) and declared.dtype is types.FLOAT16


def round_to_half(tensor: Tensor) -> Tensor:
    """The nearest float16 of each element, ties to even, held in float32."""
    return tensor.half().float()


def same_class(tensor: Tensor, dtype: DType) -> bool:
    """Whether a result is a float where a float is declared, a truth value or an integer where such is declared."""
    carrier = CARRIERS[dtype]
    return (tensor.is_floating_point(), tensor.dtype == torch.bool) == (
        carrier.is_floating_point,
        carrier == torch.bool,
    )
