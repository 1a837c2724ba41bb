"""Compressed constants (``iOS16/constexpr_ops.py``, ``iOS18/compression.py``), unpacked when they are used.

What is computed on the way, such as indices of 32 bits, can take several times the memory of the result, so that this
is done for some rows after the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lvexport.validation.mil.call import Call
from lvexport.validation.mil.ops.quantization import along
from lvexport.validation.mil.packing import unpack
from lvexport.validation.mil.program import Opset
from lvexport.validation.mil.table import op

CHUNK = 2**18  # elements that are unpacked at a time


@op("constexpr_affine_dequantize", since=Opset.IOS16)
def constexpr_affine_dequantize(
    quantized_data: Tensor, zero_point: Tensor, scale: Tensor, axis: int, call: Call
) -> Tensor:
    call.expect(tuple(quantized_data.shape))
    steps = quantized_data.to(scale.dtype) - along(zero_point, quantized_data, axis)
    return along(scale, quantized_data, axis) * steps


@op("constexpr_cast", since=Opset.IOS16)
def constexpr_cast(source_val: Tensor, output_dtype: str, call: Call) -> Tensor:
    if output_dtype != call.dtype.name:
        raise ValueError(f"the result is declared as {call.dtype.name} and output_dtype is {output_dtype!r}")
    return source_val


@op("constexpr_lut_to_dense", exact=True, since=Opset.IOS16)
def constexpr_lut_to_dense(indices: Tensor, lut: Tensor, shape: tuple[int, ...], call: Call) -> Tensor:
    """indices: packed bytes; lut: 2, 4, 16, 64 or 256 values, which decides how many bits an index has."""
    count, bits = math.prod(shape), int(math.log2(lut.numel()))
    if 2**bits != lut.numel() or indices.numel() != (count * bits + 7) // 8:
        raise ValueError(f"{indices.numel()} bytes of indices and {lut.numel()} values do not make the shape {shape}")
    call.expect(shape)
    numbers = torch.from_numpy(unpack(indices.numpy(), count, bits))
    return _by_rows(count, (), lut.dtype, lambda rows: lut[numbers[rows].int()]).reshape(shape)


@op("constexpr_lut_to_dense", exact=True, since=Opset.IOS18)
def constexpr_lut_to_dense_by_block(indices: Tensor, lut: Tensor, call: Call, vector_axis: int | None = None) -> Tensor:
    """indices [*I]; lut [*blocks, palettes, vector], a table for each block of the indices.

    Where a table holds vectors instead of single values, their elements follow each other along ``vector_axis``.
    """
    call.expect(_looked_up_shape(tuple(indices.shape), lut, vector_axis))
    return _looked_up(indices, lut, vector_axis)


@op("constexpr_lut_to_sparse", exact=True, since=Opset.IOS18)
def constexpr_lut_to_sparse(
    indices_mask: Tensor, indices_nonzero_data: Tensor, lut: Tensor, call: Call, vector_axis: int | None = None
) -> tuple[Tensor, Tensor]:
    """The mask of the looked-up values, and those of them that it marks, in row-major order."""
    call.expect(_looked_up_shape(tuple(indices_mask.shape), lut, vector_axis))
    values = _looked_up(_dense(indices_nonzero_data, indices_mask), lut, vector_axis)
    vector = lut.shape[-1]
    mask = indices_mask if vector == 1 else indices_mask.repeat_interleave(vector, vector_axis)
    return mask, values[mask != 0]


@op("constexpr_blockwise_shift_scale", since=Opset.IOS18)
def constexpr_blockwise_shift_scale(data: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    """scale · (data - offset), with one scale and offset for each block of ``data``."""
    sizes = tuple(data.shape)

    def scaled(rows: slice) -> Tensor:
        steps = data[rows].to(scale.dtype, copy=True)
        if offset is not None:
            steps -= _spread(offset, sizes, rows)
        return steps.mul_(_spread(scale, sizes, rows))

    return _by_rows(len(data), sizes[1:], scale.dtype, scaled)


@op("constexpr_sparse_blockwise_shift_scale", since=Opset.IOS18)
def constexpr_sparse_blockwise_shift_scale(
    data_mask: Tensor, nonzero_data: Tensor, scale: Tensor, offset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The mask, and the shifted and scaled values at the places that it marks."""
    values = constexpr_blockwise_shift_scale(_dense(nonzero_data, data_mask), scale, offset)
    return data_mask, values[data_mask != 0]


@op("constexpr_sparse_to_dense", exact=True, since=Opset.IOS16)
def constexpr_sparse_to_dense(nonzero_data: Tensor, mask: Tensor, shape: tuple[int, ...], call: Call) -> Tensor:
    """mask: packed bits, one for each element of the result."""
    count = math.prod(shape)
    if mask.numel() != (count + 7) // 8:
        raise ValueError(f"{mask.numel()} bytes of mask do not make the shape {shape}")
    call.expect(shape)
    return _dense(nonzero_data, torch.from_numpy(unpack(mask.numpy(), count, 1)).reshape(shape))


@op("constexpr_sparse_to_dense", exact=True, since=Opset.IOS18)
def constexpr_sparse_to_dense_by_mask(nonzero_data: Tensor, mask: Tensor) -> Tensor:
    """mask [*D] of 0 and 1."""
    return _dense(nonzero_data, mask)


def _looked_up_shape(shape: tuple[int, ...], lut: Tensor, vector_axis: int | None) -> tuple[int, ...]:
    sizes, vector = list(shape), lut.shape[-1]
    if vector > 1:
        if vector_axis is None:
            raise ValueError("a table of vectors needs a vector_axis")
        sizes[vector_axis] *= vector
    return tuple(sizes)


def _looked_up(indices: Tensor, lut: Tensor, vector_axis: int | None) -> Tensor:
    *blocks, palettes, vector = lut.shape
    if indices.numel() and int(indices.max()) >= palettes:
        raise ValueError(f"an index lies outside of a table of {palettes}")
    sizes, entries = tuple(indices.shape), lut.reshape(-1, vector)
    axis = (vector_axis or 0) % indices.ndim

    def found(rows: slice) -> Tensor:
        values = entries[_block_numbers(sizes, tuple(blocks), rows) * palettes + indices[rows].int()]  # [*I, vector]
        return values.movedim(-1, axis + 1).flatten(1)

    values = _by_rows(len(indices), (math.prod(sizes[1:]) * vector,), lut.dtype, found)
    return values.reshape(_looked_up_shape(sizes, lut, vector_axis))


def _by_rows(count: int, row: tuple[int, ...], dtype: torch.dtype, make: Callable[[slice], Tensor]) -> Tensor:
    """[count, *row], of which ``make`` makes some rows at a time."""
    result = torch.empty(count, *row, dtype=dtype)
    some = max(1, CHUNK // max(1, math.prod(row)))
    for start in range(0, count, some):
        rows = slice(start, start + some)
        result[rows] = make(rows)
    return result


def _dense(nonzero_data: Tensor, mask: Tensor) -> Tensor:
    kept = mask != 0
    if int(kept.sum()) != nonzero_data.numel():
        raise ValueError(f"{nonzero_data.numel()} values are given for {int(kept.sum())} places of the mask")
    return torch.zeros(mask.shape, dtype=nonzero_data.dtype).masked_scatter_(kept, nonzero_data)


def _block_numbers(sizes: tuple[int, ...], blocks: tuple[int, ...], rows: slice) -> Tensor:
    """Number of the block, in row-major order of ``blocks``, that each element of a tensor of ``sizes`` is in.

    Only those in ``rows`` of its first dimension are numbered. A dimension that is not divided has a size of 1.
    """
    numbers = torch.zeros([1] * len(sizes), dtype=torch.int32)
    for dim, (size, count) in enumerate(zip(sizes, blocks, strict=True)):
        if count == 0 or size % count:
            raise ValueError(f"{size} elements do not divide into {count} blocks")
        place = torch.arange(size if count > 1 else 1, dtype=torch.int32) // max(1, size // count)
        place = place[rows] if dim == 0 and count > 1 else place
        numbers = numbers * count + place.reshape([-1 if other == dim else 1 for other in range(len(sizes))])
    return numbers


def _spread(parameter: Tensor, sizes: tuple[int, ...], rows: slice) -> Tensor:
    return parameter.reshape(-1)[_block_numbers(sizes, tuple(parameter.shape), rows)]
