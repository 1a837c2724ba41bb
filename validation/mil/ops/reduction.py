"""Reductions (``iOS15/reduction.py``, ``iOS17/reduction.py``).

Without ``axes`` all dimensions are reduced. A result of an integer input is an integer; what is not one by
itself is computed in float64 and loses its fraction, as coremltools' own evaluation does it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lvexport.validation.mil.call import Call
from lvexport.validation.mil.table import op

Reducer = Callable[[Tensor, list[int]], Tensor]  # keeps the reduced dimensions, with size 1


@op("reduce_argmax")
def reduce_argmax(
    x: Tensor, call: Call, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32"
) -> Tensor:
    _require_dtype(output_dtype, call)
    return torch.argmax(x, axis, keep_dims)


@op("reduce_argmin")
def reduce_argmin(
    x: Tensor, call: Call, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32"
) -> Tensor:
    _require_dtype(output_dtype, call)
    return torch.argmin(x, axis, keep_dims)


@op("reduce_l1_norm")
def reduce_l1_norm(x: Tensor, call: Call, axes: tuple[int, ...] | None = None, keep_dims: bool = False) -> Tensor:
    return _reduce(x, axes, keep_dims, lambda x, dims: call.sums.total(x.abs(), dims))


@op("reduce_l2_norm")
def reduce_l2_norm(x: Tensor, call: Call, axes: tuple[int, ...] | None = None, keep_dims: bool = False) -> Tensor:
    return _reduce_real(x, axes, keep_dims, lambda x, dims: call.sums.total(x.square(), dims).sqrt())


@op("reduce_log_sum")
def reduce_log_sum(x: Tensor, call: Call, axes: tuple[int, ...] | None = None, keep_dims: bool = False) -> Tensor:
    return _reduce_real(x, axes, keep_dims, lambda x, dims: call.sums.total(x, dims).log())


@op("reduce_log_sum_exp")
def reduce_log_sum_exp(x: Tensor, call: Call, axes: tuple[int, ...] | None = None, keep_dims: bool = False) -> Tensor:
    return _reduce_real(x, axes, keep_dims, lambda x, dims: call.sums.log_sum_exp(x, dims))


@op("reduce_max", exact=True)
def reduce_max(x: Tensor, axes: tuple[int, ...] | None = None, keep_dims: bool = False) -> Tensor:
    return _reduce(x, axes, keep_dims, lambda x, dims: x.amax(dims, keepdim=True))


@op("reduce_mean")
def reduce_mean(x: Tensor, call: Call, axes: tuple[int, ...] | None = None, keep_dims: bool = False) -> Tensor:
    return _reduce_real(x, axes, keep_dims, lambda x, dims: call.sums.mean(x, dims))


@op("reduce_min", exact=True)
def reduce_min(x: Tensor, axes: tuple[int, ...] | None = None, keep_dims: bool = False) -> Tensor:
    return _reduce(x, axes, keep_dims, lambda x, dims: x.amin(dims, keepdim=True))


@op("reduce_prod")
def reduce_prod(x: Tensor, axes: tuple[int, ...] | None = None, keep_dims: bool = False) -> Tensor:
    return _reduce(x, axes, keep_dims, _product)


@op("reduce_sum")
def reduce_sum(x: Tensor, call: Call, axes: tuple[int, ...] | None = None, keep_dims: bool = False) -> Tensor:
    return _reduce(x, axes, keep_dims, lambda x, dims: call.sums.total(x, dims))


@op("reduce_sum_square")
def reduce_sum_square(x: Tensor, call: Call, axes: tuple[int, ...] | None = None, keep_dims: bool = False) -> Tensor:
    return _reduce(x, axes, keep_dims, lambda x, dims: call.sums.total(x.square(), dims))


def _product(x: Tensor, dims: list[int]) -> Tensor:
    for dim in dims:
        x = x.prod(dim, keepdim=True)
    return x


def _reduce(x: Tensor, axes: tuple[int, ...] | None, keep_dims: bool, reducer: Reducer) -> Tensor:
    dims = list(range(x.ndim)) if axes is None else [axis % x.ndim for axis in axes]
    if not dims:
        # torch reads an empty list as all dimensions. One of size 1 in front changes nothing.
        return reducer(x.unsqueeze(0), [0]).squeeze(0)
    reduced = reducer(x, dims)
    return reduced if keep_dims else reduced.squeeze(dims)


def _reduce_real(x: Tensor, axes: tuple[int, ...] | None, keep_dims: bool, reducer: Reducer) -> Tensor:
    if x.is_floating_point():
        return _reduce(x, axes, keep_dims, reducer)
    return _reduce(x.double(), axes, keep_dims, reducer).to(x.dtype)


def _require_dtype(output_dtype: str, call: Call) -> None:
    if output_dtype.lower() != call.dtype.name:
        raise ValueError(f"the result is declared as {call.dtype.name} and output_dtype is {output_dtype!r}")
