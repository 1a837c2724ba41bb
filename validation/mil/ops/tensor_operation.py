"""Making, joining, ordering and counting (``tensor_operation.py`` of iOS 15, 16 and 17)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lvexport.validation.mil.arguments import Scalar
from lvexport.validation.mil.call import Call
from lvexport.validation.mil.numerics import CARRIERS
from lvexport.validation.mil.program import Opset
from lvexport.validation.mil.table import op


@op("band_part", exact=True)
def band_part(x: Tensor, lower: int = -1, upper: int = -1) -> Tensor:
    """x with zeros outside a band around the diagonal of its last two dimensions; negative: no limit on that side."""
    rows, columns = x.shape[-2:]
    below = torch.arange(rows).unsqueeze(1) - torch.arange(columns)
    kept = (below <= (rows if lower < 0 else lower)) & (-below <= (columns if upper < 0 else upper))
    return torch.where(kept, x, torch.zeros_like(x))


@op("concat", exact=True)
def concat(values: tuple[Tensor, ...], axis: int, interleave: bool = False) -> Tensor:
    if values[0].ndim == 0:
        return torch.stack(values)
    if not interleave:
        return torch.cat(values, axis)
    axis %= values[0].ndim
    return torch.stack(values, axis + 1).flatten(axis, axis + 1)


@op("cumsum")
def cumsum(x: Tensor, call: Call, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Tensor:
    x = x.flip(axis) if reverse else x
    total = call.sums.cumulative(x, axis)
    # The sum before each element, not the total minus the element, which would cancel digits.
    total = total.roll(1, axis).index_fill(axis, torch.tensor([0]), 0) if exclusive else total
    return total.flip(axis) if reverse else total


@op("fill", exact=True)
def fill(shape: tuple[int, ...], call: Call, value: Scalar = 0.0) -> Tensor:
    call.expect(shape)
    return torch.full(shape, value, dtype=CARRIERS[call.dtype])


@op("fill_like", exact=True, since=Opset.IOS16)
def fill_like(ref_tensor: Tensor, call: Call, value: Scalar = 0.0) -> Tensor:
    return torch.full(ref_tensor.shape, value, dtype=CARRIERS[call.dtype])


@op("flatten2d", exact=True)
def flatten2d(x: Tensor, axis: int = 1) -> Tensor:
    """(product of the dimensions before ``axis``, product of the others)."""
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@op("identity", exact=True)
def identity(x: Tensor) -> Tensor:
    return x


@op("non_zero")
def non_zero(x: Tensor) -> Tensor:
    """Indices [N, rank] of the elements that are not 0, in row-major order."""
    return torch.nonzero(x)


@op("one_hot", exact=True)
def one_hot(
    indices: Tensor,
    one_hot_vector_size: int,
    call: Call,
    axis: int = -1,
    on_value: Scalar = 1,
    off_value: Scalar = 0,
) -> Tensor:
    axis %= indices.ndim + 1
    shape = list(indices.shape)
    shape.insert(axis, one_hot_vector_size)
    call.expect(tuple(shape))
    places = torch.arange(one_hot_vector_size).reshape(-1, *([1] * (indices.ndim - axis)))
    result = torch.full(shape, off_value, dtype=CARRIERS[call.dtype])
    return result.masked_fill(indices.unsqueeze(axis) == places, on_value)


@op("pad", exact=True)
def pad(x: Tensor, pad: tuple[int, ...], call: Call, mode: str = "constant", constant_val: float = 0.0) -> Tensor:
    """Pads the last dimensions of x; ``pad`` lists before and after for each of them."""
    padded = len(pad) // 2
    pairs = [(0, 0)] * (x.ndim - padded) + list(zip(pad[::2], pad[1::2], strict=True))
    sizes = tuple(before + size + after for size, (before, after) in zip(x.shape, pairs, strict=True))
    call.expect(sizes)
    if mode == "constant":
        flat = [amount for pair in reversed(pairs) for amount in pair]
        return torch.nn.functional.pad(x, flat, value=constant_val)
    for dim, (before, after) in enumerate(pairs):
        if before or after:
            x = x.index_select(dim, _mirror(torch.arange(-before, x.shape[dim] + after), x.shape[dim], mode))
    return x


@op("range_1d")
def range_1d(start: Scalar, end: Scalar, step: Scalar, call: Call) -> Tensor:
    count = max(0, math.ceil((end - start) / step))
    call.expect((count,))
    return (start + step * torch.arange(count, dtype=torch.float64)).to(CARRIERS[call.dtype])


@op("shape")
def shape(x: Tensor) -> Tensor:
    return torch.tensor(x.shape, dtype=torch.int32)


@op("split", exact=True)
def split(
    x: Tensor,
    axis: int,
    call: Call,
    num_splits: int | None = None,
    split_sizes: tuple[int, ...] | None = None,
) -> tuple[Tensor, ...]:
    """Parts of ``split_sizes`` along ``axis``, or as many equal ones as there are results."""
    parts = len(call.outputs)
    if num_splits not in (None, parts):
        raise ValueError(f"{num_splits} parts are asked for and {parts} results declared")
    if split_sizes is None:
        whole = x.shape[axis]
        if whole % parts:
            raise ValueError(f"{whole} elements do not split into {parts} equal parts")
        split_sizes = (whole // parts,) * parts
    return torch.split(x, list(split_sizes), axis)


@op("stack", exact=True)
def stack(values: tuple[Tensor, ...], axis: int) -> Tensor:
    return torch.stack(values, axis)


@op("tile", exact=True)
def tile(x: Tensor, reps: tuple[int, ...], call: Call) -> Tensor:
    call.expect(tuple(size * times for size, times in zip(x.shape, reps, strict=True)))
    return x.repeat(reps)


@op("argsort")
def argsort(x: Tensor, axis: int = -1, ascending: bool = False) -> Tensor:
    return torch.argsort(x, dim=axis, descending=not ascending, stable=True)


@op("topk", exact=True)
def topk(x: Tensor, k: int = 1, axis: int = -1, ascending: bool = False) -> tuple[Tensor, Tensor]:
    """Values and indices; of equal values, those that come first."""
    indices = torch.argsort(x, dim=axis, descending=not ascending, stable=True).narrow(axis, 0, k)
    return x.gather(axis, indices), indices


@op("topk", exact=True, since=Opset.IOS16)
def topk_ios16(
    x: Tensor,
    call: Call,
    k: int = 1,
    axis: int = -1,
    ascending: bool = False,
    sort: bool = True,
    return_indices: bool = True,
    output_indices_dtype: str = "int32",
) -> Tensor | tuple[Tensor, Tensor]:
    """From iOS 17 on, k = -1 is all of them. Unsorted results have no documented order; here they are sorted too."""
    values, indices = topk(x, x.shape[axis] if k == -1 and call.opset >= Opset.IOS17 else k, axis, ascending)
    return (values, indices) if return_indices else values


def _mirror(index: Tensor, size: int, mode: str) -> Tensor:
    """Brings indices beyond an axis of ``size`` elements back onto it."""
    if mode == "replicate":
        return index.clamp(0, size - 1)
    if mode == "reflect":
        return (size - 1) - ((size - 1) - index.abs()).abs()
    raise ValueError(f"there is no mode {mode!r}")
