"""Reshaping, slicing and reordering (``tensor_transformation.py`` of iOS 15 to 18). No element is computed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lvexport.validation.mil.call import Call
from lvexport.validation.mil.program import Opset
from lvexport.validation.mil.table import op


@op("batch_to_space", exact=True)
def batch_to_space(x: Tensor, block_shape: tuple[int, ...], crops: tuple[int, ...]) -> Tensor:
    """x [n·bh·bw, C, H, W] → [n, C, H·bh - crops, W·bw - crops]; crops is (top, bottom, left, right)."""
    (block_h, block_w), (top, bottom, left, right) = block_shape, crops
    n, c, h, w = x.shape
    whole = x.reshape(block_h, block_w, n // (block_h * block_w), c, h, w).permute(2, 3, 4, 0, 5, 1)
    whole = whole.reshape(n // (block_h * block_w), c, h * block_h, w * block_w)
    return whole[:, :, top : h * block_h - bottom, left : w * block_w - right]


@op("depth_to_space", exact=True)
def depth_to_space(x: Tensor, block_size: int) -> Tensor:
    """x [n, C, H, W] → [n, C/b², H·b, W·b]; the place inside a block is the slower part of C."""
    n, c, h, w = x.shape
    b = block_size
    return x.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // b**2, h * b, w * b)


@op("expand_dims", exact=True)
def expand_dims(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    rank = x.ndim + len(axes)
    shape = list(x.shape)
    for axis in sorted(axis % rank for axis in axes):
        shape.insert(axis, 1)
    return x.reshape(shape)


@op("pixel_shuffle", exact=True)
def pixel_shuffle(x: Tensor, upscale_factor: int) -> Tensor:
    return torch.pixel_shuffle(x, upscale_factor)


@op("pixel_unshuffle", exact=True, since=Opset.IOS16)
def pixel_unshuffle(x: Tensor, downscale_factor: int) -> Tensor:
    return torch.pixel_unshuffle(x, downscale_factor)


@op("reshape", exact=True)
def reshape(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """0 is the size that x has at that place, which requires equal ranks; one -1 is what remains."""
    if 0 in shape and len(shape) != x.ndim:
        raise ValueError(f"the shape {shape} inherits a dimension from a tensor of another rank, {tuple(x.shape)}")
    return x.reshape([size or x.shape[dim] for dim, size in enumerate(shape)])


@op("reshape", exact=True, since=Opset.IOS17)
def reshape_from_the_right(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Places are counted from the right, and 0 where x has no such place is 1."""
    shift = x.ndim - len(shape)
    inherited = [x.shape[dim + shift] if dim + shift >= 0 else 1 for dim in range(len(shape))]
    return x.reshape([size or inherited[dim] for dim, size in enumerate(shape)])


@op("reshape_like", exact=True, since=Opset.IOS16)
def reshape_like(
    x: Tensor,
    ref_tensors: tuple[Tensor, ...],
    begins: tuple[Tensor, ...],
    ends: tuple[Tensor, ...],
    end_masks: tuple[Tensor, ...],
) -> Tensor:
    """x in the shape joined from one slice of the shape of each reference."""
    shape: list[int] = []
    for reference, begin, end, to_the_end in zip(ref_tensors, begins, ends, end_masks, strict=True):
        shape += reference.shape[int(begin) : None if bool(to_the_end) else int(end)]
    return x.reshape(shape)


@op("reverse", exact=True)
def reverse(x: Tensor, axes: tuple[int, ...] | None = None) -> Tensor:
    return x.flip(list(range(x.ndim)) if axes is None else axes)


@op("reverse_sequence", exact=True)
def reverse_sequence(x: Tensor, lengths: Tensor, seq_axis: int = 0, batch_axis: int = 0) -> Tensor:
    """Reverses the first ``lengths[i]`` elements along ``seq_axis`` of the i-th slice along ``batch_axis``."""
    place = torch.arange(x.shape[seq_axis])
    length = lengths.long().unsqueeze(1)
    index = torch.where(place < length, length - 1 - place, place)  # [batch, sequence]
    shape = [1] * x.ndim
    shape[batch_axis], shape[seq_axis] = index.shape
    if (batch_axis % x.ndim) > (seq_axis % x.ndim):
        index = index.T
    return x.gather(seq_axis, index.reshape(shape).expand(x.shape))


@op("slice_by_index", exact=True)
def slice_by_index(
    x: Tensor,
    begin: tuple[int, ...],
    end: tuple[int, ...],
    stride: tuple[int, ...] | None = None,
    begin_mask: tuple[bool, ...] | None = None,
    end_mask: tuple[bool, ...] | None = None,
    squeeze_mask: tuple[bool, ...] | None = None,
) -> Tensor:
    """NumPy's ``x[begin:end:stride, …]``; a mask drops a limit, or takes the one element at ``begin``."""
    ranges = _ranges(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    for dim, places in enumerate(ranges):
        x = _take(x, dim, places)
    squeezed = [dim for dim, squeeze in enumerate(squeeze_mask or ()) if squeeze]
    return x.squeeze(squeezed) if squeezed else x


@op("slice_by_size", exact=True)
def slice_by_size(x: Tensor, begin: tuple[int, ...], size: tuple[int, ...]) -> Tensor:
    """``size`` elements from ``begin`` on; -1 is all that follow."""
    for dim, (start, count) in enumerate(zip(begin, size, strict=True)):
        start = start + x.shape[dim] if start < 0 else start
        x = x.narrow(dim, start, x.shape[dim] - start if count == -1 else count)
    return x


@op("slice_update", exact=True, since=Opset.IOS18)
def slice_update(
    x: Tensor,
    update: Tensor,
    begin: tuple[int, ...],
    end: tuple[int, ...],
    stride: tuple[int, ...] | None = None,
    begin_mask: tuple[bool, ...] | None = None,
    end_mask: tuple[bool, ...] | None = None,
    squeeze_mask: tuple[bool, ...] | None = None,
) -> Tensor:
    """x with ``update`` in the place of what ``slice_by_index`` would take."""
    ranges = _ranges(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    index = torch.meshgrid(*(torch.tensor(places, dtype=torch.int64) for places in ranges), indexing="ij")
    return x.index_put(index, update.reshape([len(places) for places in ranges]))


@op("sliding_windows", exact=True)
def sliding_windows(x: Tensor, axis: int, size: int, stride: int = 1) -> Tensor:
    """All windows of ``size`` along ``axis``: [*d0, windows, size, *dn]."""
    axis %= x.ndim
    return x.unfold(axis, size, stride).movedim(-1, axis + 1)


@op("space_to_batch", exact=True)
def space_to_batch(x: Tensor, block_shape: tuple[int, ...], paddings: tuple[int, ...], call: Call) -> Tensor:
    """x [n, C, H, W], padded with zeros by (top, bottom, left, right) → [n·bh·bw, C, H/bh, W/bw]."""
    (block_h, block_w), (top, bottom, left, right) = block_shape, paddings
    n, c, h, w = x.shape
    rows, columns = (h + top + bottom) // block_h, (w + left + right) // block_w
    call.expect((n * block_h * block_w, c, rows, columns))
    padded = torch.nn.functional.pad(x, (left, right, top, bottom))
    blocks = padded.reshape(n, c, rows, block_h, columns, block_w).permute(3, 5, 0, 1, 2, 4)
    return blocks.reshape(n * block_h * block_w, c, rows, columns)


@op("space_to_depth", exact=True)
def space_to_depth(x: Tensor, block_size: int) -> Tensor:
    """x [n, C, H, W] → [n, C·b², H/b, W/b]; the place inside a block is the slower part of the result's C."""
    n, c, h, w = x.shape
    b = block_size
    return x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4).reshape(n, c * b**2, h // b, w // b)


@op("squeeze", exact=True)
def squeeze(x: Tensor, axes: tuple[int, ...] | None = None) -> Tensor:
    """Without those of ``axes`` (default all) that have size 1."""
    return x.squeeze() if axes is None else x.squeeze(axes)


@op("transpose", exact=True)
def transpose(x: Tensor, perm: tuple[int, ...]) -> Tensor:
    return x.permute(perm) if x.ndim else x


def _ranges(
    x: Tensor,
    begin: tuple[int, ...],
    end: tuple[int, ...],
    stride: tuple[int, ...] | None,
    begin_mask: tuple[bool, ...] | None,
    end_mask: tuple[bool, ...] | None,
    squeeze_mask: tuple[bool, ...] | None,
) -> list[range]:
    """Which places of each dimension a slice takes."""
    rank = x.ndim
    no = (False,) * rank
    columns = (begin, end, stride or (1,) * rank, begin_mask or no, end_mask or no, squeeze_mask or no)
    ranges = []
    for size, first, last, step, from_start, to_end, single in zip(x.shape, *columns, strict=True):
        start = None if from_start else first
        if single:
            place = range(size)[start or 0]
            ranges.append(range(place, place + 1))
        else:
            ranges.append(range(size)[start : None if to_end else last : step])
    return ranges


def _take(x: Tensor, dim: int, places: Sequence[int]) -> Tensor:
    if places == range(x.shape[dim]):
        return x
    if isinstance(places, range) and places.step > 0:
        index = [slice(None)] * dim + [slice(places.start, places.stop, places.step)]
        return x[tuple(index)]
    return x.index_select(dim, torch.tensor(places, dtype=torch.int64))
