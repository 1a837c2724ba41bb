"""Arrays as bytes, including elements of under 8 bits.

Elements are packed from the least significant bit of a byte upward, and one may straddle two bytes (docstring
of ``iOS16.constexpr_lut_to_dense`` in coremltools). Wider elements are little-endian.
"""

from __future__ import annotations

import numpy as np

from lvexport.validation.mil.types import Array, DType


def packed_size(count: int, dtype: DType) -> int:
    """Bytes that ``count`` elements take."""
    return (count * dtype.bits + 7) // 8


def from_bytes(data: Array, count: int, dtype: DType) -> Array:
    """The first ``count`` elements of ``data``, uint8 [bytes] with at least ``packed_size`` of them.

    Elements of 8 bits and more stay where they are: the result shares memory with ``data``.
    """
    if dtype.bits >= 8:
        return data[: packed_size(count, dtype)].view(dtype.numpy)
    values = unpack(data, count, dtype.bits)
    if dtype.numpy.kind == "u":
        return values
    # Two's complement: the sign bit of the narrow type is moved to that of the byte, and copied back down.
    spare = 8 - dtype.bits
    return (values << spare).view(np.int8) >> spare


def unpack(data: Array, count: int, bits: int) -> Array:
    """Unsigned ``bits``-bit elements: uint8 [bytes] → uint8 [count]."""
    flat = np.unpackbits(data, count=count * bits, bitorder="little").reshape(count, bits)
    return np.packbits(flat, axis=1, bitorder="little").reshape(count)
