"""Indexed reading and writing (``scatter_gather.py`` of iOS 15, 16 and 17).

Before iOS 17 a negative index counts from the end; since then it lies outside the axis. An index outside is an
error here, asked to be validated or not: what a device makes of it is undefined.
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
    index = _places(indices, x.shape[axis], call)
    if batch_dims == 0:
        return _gather(x, index, axis)
    batch = x.shape[:batch_dims]
    rows = zip(x.flatten(0, batch_dims - 1), index.flatten(0, batch_dims - 1), strict=True)
    taken = torch.stack([_gather(row, places, axis - batch_dims) for row, places in rows])
    return taken.reshape(*batch, *taken.shape[1:])


@op("gather_along_axis", exact=True)
def gather_along_axis(x: Tensor, indices: Tensor, call: Call, axis: int = 0, validate_indices: bool = False) -> Tensor:
    """Indices of x's rank → result of their shape, with the element of x that each names along ``axis``."""
    return torch.gather(x, axis, _places(indices, x.shape[axis], call))


@op("gather_nd", exact=True)
def gather_nd(x: Tensor, indices: Tensor, call: Call, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    """indices [*K, depth]: each names a slice of x by its first ``depth`` places after the batch dimensions."""
    depth = indices.shape[-1]
    places = [_places(indices[..., level], x.shape[batch_dims + level], call) for level in range(depth)]
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
    index = _places(indices, data.shape[axis], call)
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
    return _scatter(data, axis, _places(indices, data.shape[axis], call), updates, mode)


@op("scatter_nd")
def scatter_nd(
    data: Tensor, indices: Tensor, updates: Tensor, call: Call, mode: str = "add", validate_indices: bool = False
) -> Tensor:
    """indices [*K, depth]: slices of ``updates`` go to the slices of ``data`` that these name."""
    depth = indices.shape[-1]
    outer, inner = data.shape[:depth], data.shape[depth:]
    place = torch.zeros(indices.shape[:-1], dtype=torch.int64)
    for level, size in enumerate(outer):
        place = place * size + _places(indices[..., level], size, call)
    flat_data = data.reshape(math.prod(outer), math.prod(inner))
    flat_updates = updates.reshape(place.numel(), math.prod(inner))
    index = place.reshape(-1, 1).expand(flat_updates.shape)
    return _scatter(flat_data, 0, index, flat_updates, mode).reshape(data.shape)


def _places(indices: Tensor, size: int, call: Call) -> Tensor:
    index = indices.long()
    if call.opset < Opset.IOS17:
        index = torch.where(index < 0, index + size, index)
    if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < size:
        raise IndexError(f"an index lies outside of an axis of {size} elements")
    return index


def _gather(x: Tensor, index: Tensor, axis: int) -> Tensor:
    taken = x.index_select(axis, index.reshape(-1))
    return taken.reshape((*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]))


def _scatter(data: Tensor, axis: int, index: Tensor, updates: Tensor, mode: str) -> Tensor:
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
