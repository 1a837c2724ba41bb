"""Indexed reading and writing (``scatter_gather.py`` of iOS 15, 16 and 17).

Before iOS 17 a negative index counts from the end; since then it lies outside the axis. An index outside is an
error where ``validate_indices`` asks for it. Elsewhere its result is undefined (``iOS17/scatter_gather.py``), and
Core ML goes on: here nothing is written there, and what is read there is NaN, so that a network whose result
depends on it is noticed. Integers have no such value, so reading them there is an error all the same.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lvexport.validation.mil.call import Call
from lvexport.validation.mil.program import Opset
from lvexport.validation.mil.table import op


@op("gather", exact=True)
def gather(
    x: Tensor, indices: Tensor, call: Call, axis: int = 0, batch_dims: int = 0, validate_indices: bool = False
) -> Tensor:
    """x [*D], indices [*N] → [*D before axis, *N after the batch dimensions, *D after axis]."""
    axis %= x.ndim
    index = _places(indices, x.shape[axis], call, validate_indices)
    x = _with_unknown(x, axis, index)
    if batch_dims == 0:
        return _gather(x, index, axis)
    batch = x.shape[:batch_dims]
    rows = zip(x.flatten(0, batch_dims - 1), index.flatten(0, batch_dims - 1), strict=True)
    taken = torch.stack([_gather(row, places, axis - batch_dims) for row, places in rows])
    return taken.reshape(*batch, *taken.shape[1:])


@op("gather_along_axis", exact=True)
def gather_along_axis(x: Tensor, indices: Tensor, call: Call, axis: int = 0, validate_indices: bool = False) -> Tensor:
    """Indices of x's rank → result of their shape, with the element of x that each names along ``axis``."""
    index = _places(indices, x.shape[axis], call, validate_indices)
    return torch.gather(_with_unknown(x, axis, index), axis, index)


@op("gather_nd", exact=True)
def gather_nd(x: Tensor, indices: Tensor, call: Call, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    """indices [*K, depth]: each names a slice of x by its first ``depth`` places after the batch dimensions."""
    places = []
    for level in range(indices.shape[-1]):
        places.append(_places(indices[..., level], x.shape[batch_dims + level], call, validate_indices))
        x = _with_unknown(x, batch_dims + level, places[-1])
    rank = indices.ndim - 1
    batch = [
        torch.arange(x.shape[dim]).reshape([-1 if other == dim else 1 for other in range(rank)])
        for dim in range(batch_dims)
    ]
    return x[tuple(batch + places)]


@op("scatter")
def scatter(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    call: Call,
    axis: int = 0,
    mode: str = "add",
    validate_indices: bool = False,
) -> Tensor:
    """Slices of ``updates`` along ``axis`` go where ``indices`` [C] says."""
    axis %= data.ndim
    index = _places(indices, data.shape[axis], call, validate_indices)
    flat = updates.reshape(*data.shape[:axis], index.numel(), *data.shape[axis + 1 :])
    shape = [-1 if dim == axis else 1 for dim in range(data.ndim)]
    return _scatter(data, axis, index.reshape(shape).expand(flat.shape), flat, mode)


@op("scatter_along_axis")
def scatter_along_axis(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    call: Call,
    axis: int = 0,
    mode: str = "add",
    validate_indices: bool = False,
) -> Tensor:
    """Each element of ``updates`` goes where the element of ``indices`` at its place says."""
    return _scatter(data, axis, _places(indices, data.shape[axis], call, validate_indices), updates, mode)


@op("scatter_nd")
def scatter_nd(
    data: Tensor, indices: Tensor, updates: Tensor, call: Call, mode: str = "add", validate_indices: bool = False
) -> Tensor:
    """indices [*K, depth]: slices of ``updates`` go to the slices of ``data`` that these name."""
    depth = indices.shape[-1]
    outer, inner = data.shape[:depth], data.shape[depth:]
    place = torch.zeros(indices.shape[:-1], dtype=torch.int64)
    outside = torch.zeros(indices.shape[:-1], dtype=torch.bool)
    for level, size in enumerate(outer):
        along = _places(indices[..., level], size, call, validate_indices)
        place, outside = place * size + along, outside | (along == size)
    place = place.masked_fill(outside, math.prod(outer))
    flat_data = data.reshape(math.prod(outer), math.prod(inner))
    flat_updates = updates.reshape(place.numel(), math.prod(inner))
    index = place.reshape(-1, 1).expand(flat_updates.shape)
    return _scatter(flat_data, 0, index, flat_updates, mode).reshape(data.shape)


def _places(indices: Tensor, size: int, call: Call, validate: bool) -> Tensor:
    """Indices along an axis of ``size`` elements; one that lies outside is ``size``."""
    index = indices.long()
    if call.opset < Opset.IOS17:
        index = torch.where(index < 0, index + size, index)
    outside = (index < 0) | (index >= size)
    if validate and bool(outside.any()):
        raise IndexError(f"an index lies outside of an axis of {size} elements")
    return index.masked_fill(outside, size)


def _with_unknown(x: Tensor, axis: int, index: Tensor) -> Tensor:
    """x with NaN at the place behind the end of the axis, if ``index`` leads there."""
    size = x.shape[axis]
    if not bool((index == size).any()):
        return x
    if not x.is_floating_point():
        raise IndexError(f"an index lies outside of an axis of {size} elements")
    return torch.cat([x, torch.full_like(x.narrow(axis, 0, 1), math.nan)], axis)


def _gather(x: Tensor, index: Tensor, axis: int) -> Tensor:
    taken = x.index_select(axis, index.reshape(-1))
    return taken.reshape((*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]))


def _scatter(data: Tensor, axis: int, index: Tensor, updates: Tensor, mode: str) -> Tensor:
    size = data.shape[axis]
    if not bool((index == size).any()):
        return _scattered(data, axis, index, updates, mode)
    # What leads outside is written behind the end of the axis, and cut off with it.
    longer = torch.cat([data, data.narrow(axis, 0, 1)], axis)
    return _scattered(longer, axis, index, updates, mode).narrow(axis, 0, size)


def _scattered(data: Tensor, axis: int, index: Tensor, updates: Tensor, mode: str) -> Tensor:
    if mode == "update":
        return data.scatter(axis, index, updates)
    if mode == "add":
        return data.scatter_add(axis, index, updates)
    if mode == "sub":
        return data.scatter_add(axis, index, -updates)
    if mode == "mul":
        return data.scatter_reduce(axis, index, updates, "prod")
    if mode == "div" and data.is_floating_point():
        return data / torch.ones_like(data).scatter_reduce(axis, index, updates, "prod")
    if mode in ("max", "min"):
        return data.scatter_reduce(axis, index, updates, f"a{mode}")
    raise ValueError(f"there is no mode {mode!r} for this element type")
