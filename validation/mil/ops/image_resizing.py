"""Resizing of the last dimensions (``image_resizing.py`` of iOS 15, 16 and 17)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lvexport.validation.mil.call import Call
from lvexport.validation.mil.program import Opset
from lvexport.validation.mil.table import op
from lvexport.validation.mil.types import Array


@op("crop", exact=True)
def crop(x: Tensor, crop_height: tuple[int, ...], crop_width: tuple[int, ...]) -> Tensor:
    """x [*D, H, W] without the given numbers of rows (top, bottom) and columns (left, right)."""
    (top, bottom), (left, right) = crop_height, crop_width
    height, width = x.shape[-2:]
    return x[..., top : height - bottom, left : width - right]


@op("upsample_nearest_neighbor", exact=True)
def upsample_nearest_neighbor(
    x: Tensor, call: Call, scale_factor_height: float = 1, scale_factor_width: float = 1
) -> Tensor:
    return _nearest_below(x, _scaled(x, scale_factor_height, scale_factor_width), call)


@op("resize_nearest_neighbor", exact=True)
def resize_nearest_neighbor(x: Tensor, target_size_height: int, target_size_width: int, call: Call) -> Tensor:
    return _nearest_below(x, (target_size_height, target_size_width), call)


@op("upsample_bilinear")
def upsample_bilinear(
    x: Tensor,
    call: Call,
    scale_factor_height: float = 1,
    scale_factor_width: float = 1,
    align_corners: bool = True,
    half_pixel_centers: bool | None = None,
) -> Tensor:
    if align_corners and half_pixel_centers:
        raise ValueError("half_pixel_centers and align_corners exclude each other")
    unaligned = "DEFAULT" if half_pixel_centers is False else "UNALIGN_CORNERS"
    mode = "STRICT_ALIGN_CORNERS" if align_corners else unaligned
    return _linear(x, _scaled(x, scale_factor_height, scale_factor_width), mode, call)


@op("resize_bilinear")
def resize_bilinear(
    x: Tensor,
    call: Call,
    target_size_height: int = 1,
    target_size_width: int = 1,
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    return _linear(x, (target_size_height, target_size_width), sampling_mode, call)


@op("resize", since=Opset.IOS17)
def resize(
    x: Tensor,
    shape: tuple[int, ...],
    resized_dims: int,
    call: Call,
    interpolation_mode: str = "LINEAR",
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    """x with its last ``resized_dims`` dimensions resized to the last ones of ``shape``, where 0 keeps the size."""
    targets = shape[len(shape) - resized_dims :]
    present = x.shape[x.ndim - resized_dims :]
    sizes = tuple(target or size for target, size in zip(targets, present, strict=True))
    if interpolation_mode == "LINEAR":
        return _linear(x, sizes, sampling_mode, call)
    if interpolation_mode == "NEAREST_NEIGHBOR":
        # Unlike the older operations, which round down: 2 → 3 elements repeats the second one (coremltools' test).
        return _nearest(x, sizes, lambda size, target: np.rint(grid(size, target, sampling_mode)), call)
    raise ValueError(f"there is no interpolation_mode {interpolation_mode!r}")


def grid(size: int, target: int, mode: str) -> Array:
    """Where on an axis of ``size`` elements the ``target`` samples lie: float64 [target] from 0 to size - 1.

    The formulas of the sampling modes are in the docstring of ``iOS15.resize_bilinear``.
    """
    index = np.arange(target, dtype=np.float64)
    if mode == "ALIGN_CORNERS" and target == 1:
        points = np.array([(size - 1) / 2])
    elif mode in ("ALIGN_CORNERS", "STRICT_ALIGN_CORNERS"):
        points = index * ((size - 1) / max(target - 1, 1))
    elif mode == "DEFAULT":
        points = index * (size / target)
    elif mode == "OFFSET_CORNERS":
        points = (index + 0.5) * (max(1, size - 1) / target)
    elif mode == "UNALIGN_CORNERS":
        points = (index + 0.5) * (size / target) - 0.5
    else:
        raise ValueError(f"there is no sampling_mode {mode!r}")
    return points.clip(0, size - 1)


def _scaled(x: Tensor, height: float, width: float) -> tuple[int, ...]:
    # coremltools multiplies in float32 (7 × 8/7 is then 8, not a little less), and so decides the declared size.
    return tuple(
        int(np.floor(np.float32(factor) * np.float32(size)))
        for factor, size in zip((height, width), x.shape[-2:], strict=True)
    )


def _nearest_below(x: Tensor, sizes: tuple[int, ...], call: Call) -> Tensor:
    return _nearest(x, sizes, lambda size, target: np.arange(target) * size // target, call)


def _nearest(x: Tensor, sizes: tuple[int, ...], rule: Callable[[int, int], Array], call: Call) -> Tensor:
    call.expect((*x.shape[: x.ndim - len(sizes)], *sizes))
    for dim, target in zip(range(-len(sizes), 0), sizes, strict=True):
        x = x.index_select(dim, torch.from_numpy(rule(x.shape[dim], target).astype(np.int64)))
    return x


def _linear(x: Tensor, sizes: tuple[int, ...], mode: str, call: Call) -> Tensor:
    call.expect((*x.shape[: x.ndim - len(sizes)], *sizes))
    for dim, target in zip(range(-len(sizes), 0), sizes, strict=True):
        x = _linear_along(x, dim, grid(x.shape[dim], target, mode))
    return x


def _linear_along(x: Tensor, dim: int, points: Array) -> Tensor:
    below = np.floor(points)
    above = np.minimum(below + 1, x.shape[dim] - 1)
    weight = torch.from_numpy((points - below).astype(np.float32)).reshape(-1, *([1] * (-dim - 1)))
    low = x.index_select(dim, torch.from_numpy(below.astype(np.int64)))
    high = x.index_select(dim, torch.from_numpy(above.astype(np.int64)))
    return low * (1 - weight) + high * weight
