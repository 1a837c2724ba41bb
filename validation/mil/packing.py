"""Arrays as bytes, including elements of under 8 bits.

Elements are packed from the least significant bit of a byte upward, and one may straddle two bytes (docstring
of ``iOS16.constexpr_lut_to_dense`` in coremltools). Wider elements are little-endian.
"""

from __future__ import annotations

import math

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
    values <<= spare
    signed = values.view(np.int8)
    signed >>= spare
    return signed


def unpack(data: Array, count: int, bits: int) -> Array:
    """Unsigned ``bits``-bit elements, of 8 bits at most: uint8 [bytes] → uint8 [count]."""
    # As many elements as fill whole bytes are a group, and those at one place of all groups lie alike in their bytes.
    size, span = 8 // math.gcd(8, bits), bits // math.gcd(8, bits)
    held = np.zeros((-(-count // size), span), dtype=np.uint8)
    held.reshape(-1)[: len(data)] = data[: held.size]
    elements = np.empty((len(held), size), dtype=np.uint8)
    for place in range(size):
        byte, shift = divmod(place * bits, 8)
        values = held[:, byte] >> shift
        if shift + bits > 8:
            values |= held[:, byte + 1] << (8 - shift)
        np.bitwise_and(values, 2**bits - 1, out=elements[:, place])
    return elements.reshape(-1)[:count]
