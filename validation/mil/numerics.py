"""How values of the program are held as torch tensors, and rounded to the precision that it declares.

A half-precision value is held in float32, and every operation that makes one rounds its result to float16: what
the program declares as ``fp16`` always holds numbers that float16 has, and sums are accumulated in float32. This
is the more accurate of the ways in which a device may compute such a program, and needs no half-precision
kernels. Overflow goes to infinity as it does in float16. Unsigned integers that torch has little arithmetic for
are held in the next wider signed type.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lvexport.validation.mil import types
from lvexport.validation.mil.types import Array, DType

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
