"""Values of an image between and beyond its pixels, and the operations that sample it freely.

``affine`` and ``resample`` (``image_resizing.py`` of iOS 15, 16 and 17). Places are pairs of tensors, of columns
and of rows, in pixels: 0 is the center of the first one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lvexport.validation.mil.call import Call
from lvexport.validation.mil.table import op


@op("affine")
def affine(
    x: Tensor,
    transform_matrix: Tensor,
    output_height: int,
    output_width: int,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
    call: Call,
) -> Tensor:
    """x [B, C, H, W], transform_matrix [B or 1, 6] (a0, a1, a2, b0, b1, b2) → [B, C, output_height, output_width].

    Place (x, y) of the result, from -1 to 1, shows (a0·x + a1·y + a2, b0·x + b1·y + b2) of the input.
    """
    call.expect((*x.shape[:2], output_height, output_width))
    y, x_out = torch.meshgrid(
        _centered(output_height, align_corners), _centered(output_width, align_corners), indexing="ij"
    )
    ones = torch.stack([x_out, y, torch.ones_like(y)], -1)  # [h, w, 3]
    matrix = transform_matrix.reshape(-1, 1, 2, 3).float()
    coordinates = torch.einsum("hwk,bzik->bhwi", ones, matrix).expand(len(x), -1, -1, -1)
    return resample(x, coordinates, sampling_mode, padding_mode, padding_value, coordinates_mode, align_corners, call)


@op("resample")
def resample(
    x: Tensor,
    coordinates: Tensor,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
    call: Call,
) -> Tensor:
    """x [B, C, H, W], coordinates [B, h, w, 2] as (column, row) → [B, C, h, w]."""
    call.expect((*x.shape[:2], *coordinates.shape[1:3]))
    height, width = x.shape[-2:]
    columns = _pixels(coordinates[..., 0].float(), width, coordinates_mode.lower(), align_corners)
    rows = _pixels(coordinates[..., 1].float(), height, coordinates_mode.lower(), align_corners)
    columns = _inside(columns, width, padding_mode.lower())
    rows = _inside(rows, height, padding_mode.lower())
    if sampling_mode.lower() == "nearest":
        # Halves go to the even neighbour (tests/iOS15/test_image_resizing.py, TestResample).
        return pick(x, columns.round(), rows.round(), padding_value)
    if sampling_mode.lower() == "bilinear":
        return bilinear(x, columns, rows, padding_value, _constant(padding_mode))
    raise ValueError(f"there is no sampling_mode {sampling_mode!r}")


def bilinear(x: Tensor, columns: Tensor, rows: Tensor, outside: float, padded: bool) -> Tensor:
    """x [B, C, H, W] at places [B, *P] → [B, C, *P].

    Args:
        outside: value of the pixels around the image, if it is ``padded``; else its border goes on.
    """
    height, width = x.shape[-2:]
    left, top = columns.floor(), rows.floor()
    right_share, bottom_share = (columns - left).unsqueeze(1), (rows - top).unsqueeze(1)

    def pixel(column: Tensor, row: Tensor) -> Tensor:
        if not padded:
            column, row = column.clamp(0, width - 1), row.clamp(0, height - 1)
        return pick(x, column, row, outside)

    upper = pixel(left, top) * (1 - right_share) + pixel(left + 1, top) * right_share
    lower = pixel(left, top + 1) * (1 - right_share) + pixel(left + 1, top + 1) * right_share
    return upper * (1 - bottom_share) + lower * bottom_share


def pick(x: Tensor, columns: Tensor, rows: Tensor, outside: float) -> Tensor:
    """x [B, C, H, W] at whole places [B, *P] → [B, C, *P]; ``outside`` where there is no pixel."""
    height, width = x.shape[-2:]
    present = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    place = (rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)).nan_to_num(0).long()
    flat = place.flatten(1).unsqueeze(1).expand(-1, x.shape[1], -1)
    values = x.flatten(2).gather(2, flat).reshape(*x.shape[:2], *columns.shape[1:])
    return torch.where(present.unsqueeze(1), values, torch.full_like(values, outside))


def _centered(count: int, align_corners: bool) -> Tensor:
    """``count`` places from -1 to 1: the centers of the first and last pixel, or their outer edges."""
    index = torch.arange(count, dtype=torch.float32)
    if not align_corners:
        return (2 * index + 1) / count - 1
    return 2 * index / (count - 1) - 1 if count > 1 else torch.zeros(1)


def _pixels(places: Tensor, size: int, mode: str, align_corners: bool) -> Tensor:
    """Coordinates along an axis of ``size`` pixels, in pixels."""
    if mode == "unnormalized":
        return places
    if mode == "normalized_minus_one_to_one":
        places = (places + 1) / 2
    elif mode != "normalized_zero_to_one":
        raise ValueError(f"there is no coordinates_mode {mode!r}")
    return places * (size - 1) if align_corners else places * size - 0.5


def _inside(places: Tensor, size: int, mode: str) -> Tensor:
    """Brings places beyond an axis of ``size`` pixels back onto it, as the padding asks."""
    if mode == "constant":
        return places
    if mode == "border":
        return places.clamp(0, size - 1)
    if mode == "reflection":
        return _reflected(places, 0.0, size - 1.0)
    if mode == "symmetric":
        return _reflected(places, -0.5, size - 0.5).clamp(0, size - 1)
    raise ValueError(f"there is no padding_mode {mode!r}")


def _reflected(places: Tensor, first: float, last: float) -> Tensor:
    span = last - first
    if span <= 0:
        return torch.full_like(places, first)
    beyond = (places - first).remainder(2 * span)
    return first + torch.minimum(beyond, 2 * span - beyond)


def _constant(padding_mode: str) -> bool:
    return padding_mode.lower() == "constant"
