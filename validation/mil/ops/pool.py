"""Pooling over 1 to 3 spatial dimensions (``iOS15/pool.py``)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from lvexport.validation.mil.call import Call
from lvexport.validation.mil.ops.windows import Axis, along_axis, pad_pairs, pad_spatial, per_axis
from lvexport.validation.mil.sums import SINGLE
from lvexport.validation.mil.table import op

MAXIMUM = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


@op("avg_pool")
def avg_pool(
    x: Tensor,
    kernel_sizes: tuple[int, ...],
    pad_type: str,
    call: Call,
    strides: tuple[int, ...] | None = None,
    pad: tuple[int, ...] | None = None,
    exclude_padding_from_average: bool = False,
    ceil_mode: bool = False,
) -> Tensor:
    """Mean over each window. Elements that a window has beyond the padded input never count (as in PyTorch)."""
    rank = x.ndim - 2
    strides = per_axis(strides, rank, 1)
    axes = _axes(x, kernel_sizes, strides, pad_type, pad, ceil_mode, call)
    means = call.sums.window_means(pad_spatial(x, _pads(axes), 0.0), kernel_sizes, strides)
    counted = torch.ones(1, 1, *x.shape[2:])
    if not exclude_padding_from_average:
        counted = pad_spatial(counted, [(axis.before, axis.after) for axis in axes], 1.0)
        missing = [(0, axis.overhang) for axis in axes]
    else:
        missing = _pads(axes)
    if not any(before or after for before, after in missing):
        return means
    return means / SINGLE.window_means(pad_spatial(counted, missing, 0.0), kernel_sizes, strides)


@op("l2_pool")
def l2_pool(
    x: Tensor,
    kernel_sizes: tuple[int, ...],
    pad_type: str,
    call: Call,
    strides: tuple[int, ...] | None = None,
    pad: tuple[int, ...] | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """Square root of the sum of squares over each window."""
    rank = x.ndim - 2
    strides = per_axis(strides, rank, 1)
    axes = _axes(x, kernel_sizes, strides, pad_type, pad, ceil_mode, call)
    means = call.sums.window_means(pad_spatial(x, _pads(axes), 0.0).square(), kernel_sizes, strides)
    return (means * math.prod(kernel_sizes)).sqrt()


@op("max_pool", exact=True)
def max_pool(
    x: Tensor,
    kernel_sizes: tuple[int, ...],
    pad_type: str,
    call: Call,
    strides: tuple[int, ...] | None = None,
    pad: tuple[int, ...] | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """Largest element of each window; padding is never it."""
    rank = x.ndim - 2
    strides = per_axis(strides, rank, 1)
    axes = _axes(x, kernel_sizes, strides, pad_type, pad, ceil_mode, call)
    return MAXIMUM[rank](pad_spatial(x, _pads(axes), -math.inf), kernel_sizes, strides)


def _axes(
    x: Tensor,
    kernel_sizes: tuple[int, ...],
    strides: tuple[int, ...],
    pad_type: str,
    pad: tuple[int, ...] | None,
    ceil_mode: bool,
    call: Call,
) -> list[Axis]:
    pads = pad_pairs(pad, x.ndim - 2)
    axes = [
        along_axis(size, kernel, stride, 1, pad_type, pair, ceil_mode)
        for size, kernel, stride, pair in zip(x.shape[2:], kernel_sizes, strides, pads, strict=True)
    ]
    call.expect((*x.shape[:2], *(axis.count for axis in axes)))
    return axes


def _pads(axes: list[Axis]) -> list[tuple[int, int]]:
    return [(axis.before, axis.after + axis.overhang) for axis in axes]
