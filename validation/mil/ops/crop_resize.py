"""Patches of an image, each resized to the same size (``crop_resize`` of iOS 15, 16 and 17)."""

from __future__ import annotations

import torch
from torch import Tensor

from lvexport.validation.mil.call import Call
from lvexport.validation.mil.ops.sampling import bilinear
from lvexport.validation.mil.program import Opset
from lvexport.validation.mil.table import op

# Where in a box's four numbers each of top, left, bottom, right stands (or center and size in their place).
ORDERS = {"HEIGHT_FIRST": (0, 1, 2, 3), "WIDTH_FIRST": (1, 0, 3, 2)}


@op("crop_resize")
def crop_resize(
    x: Tensor,
    roi: Tensor,
    call: Call,
    target_height: int = 1,
    target_width: int = 1,
    normalized_coordinates: bool = False,
    spatial_scale: float = 1.0,
    box_coordinate_mode: str = "CORNERS_HEIGHT_FIRST",
    sampling_mode: str = "DEFAULT",
    pad_value: float = 0.0,
) -> Tensor:
    """x [B, C, H, W], roi [N, 1, 4 or 5, 1, 1] → [N, B or 1, C, target_height, target_width].

    A fifth number in front is that of the image; without it a box applies to every image.
    """
    numbers = roi.reshape(len(roi), -1).float()
    call.expect((len(roi), len(x) if numbers.shape[1] == 4 else 1, x.shape[1], target_height, target_width))
    images = torch.arange(len(x)).repeat(len(roi)) if numbers.shape[1] == 4 else numbers[:, 0].long()
    boxes = numbers[:, -4:].repeat_interleave(len(images) // len(roi), 0)
    size = (target_height, target_width)
    scale = _scale(x, normalized_coordinates, spatial_scale)
    patches = _patches(x[images], boxes * scale, box_coordinate_mode, sampling_mode, size, pad_value)
    return patches.reshape(len(roi), -1, *patches.shape[1:])


@op("crop_resize", since=Opset.IOS17)
def crop_resize_by_index(
    x: Tensor,
    boxes: Tensor,
    call: Call,
    box_indices: Tensor | None = None,
    target_height: int = 1,
    target_width: int = 1,
    normalized_coordinates: bool = False,
    spatial_scale: float = 1.0,
    box_coordinate_mode: str = "CORNERS_HEIGHT_FIRST",
    sampling_mode: str = "DEFAULT",
    pad_value: float = 0.0,
) -> Tensor:
    """x [B, C, H, W], boxes [N, 4], box_indices [N] → [N, C, target_height, target_width]."""
    call.expect((len(boxes), x.shape[1], target_height, target_width))
    images = torch.arange(len(boxes)) if box_indices is None else box_indices.long()
    scale = _scale(x, normalized_coordinates, spatial_scale)
    size = (target_height, target_width)
    return _patches(x[images], boxes.float() * scale, box_coordinate_mode, sampling_mode, size, pad_value)


def _scale(x: Tensor, normalized: bool, spatial_scale: float) -> Tensor:
    """From coordinates to pixels, for (height, width)."""
    height, width = x.shape[-2:]
    return torch.tensor([height - 1.0, width - 1.0] if normalized else [1.0, 1.0]).repeat(2) * spatial_scale


def _patches(
    x: Tensor, boxes: Tensor, box_mode: str, sampling_mode: str, size: tuple[int, int], pad_value: float
) -> Tensor:
    """x [N, C, H, W], boxes [N, 4] → [N, C, *size]; a sample outside of the image is ``pad_value``."""
    top, left, bottom, right = _corners(boxes, box_mode)
    rows = _between(top, bottom, size[0], sampling_mode).unsqueeze(2).expand(-1, -1, size[1])
    columns = _between(left, right, size[1], sampling_mode).unsqueeze(1).expand(-1, size[0], -1)
    height, width = x.shape[-2:]
    present = (rows >= 0) & (rows <= height - 1) & (columns >= 0) & (columns <= width - 1)
    sampled = bilinear(x, columns, rows, 0.0, padded=False)
    return torch.where(present.unsqueeze(1), sampled, torch.full_like(sampled, pad_value))


def _corners(boxes: Tensor, mode: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, left, bottom and right, each [N]."""
    kind, _, order = mode.partition("_SIZE_") if "_SIZE_" in mode else mode.partition("_")
    if order not in ORDERS or kind not in ("CORNERS", "CENTER"):
        raise ValueError(f"there is no box_coordinate_mode {mode!r}")
    top, left, bottom, right = (boxes[:, place] for place in ORDERS[order])
    if kind == "CORNERS":
        return top, left, bottom, right
    return top - bottom / 2, left - right / 2, top + bottom / 2, left + right / 2


def _between(first: Tensor, last: Tensor, count: int, mode: str) -> Tensor:
    """``count`` sampling places in each box's interval: [N] → [N, count].

    The formulas of ``iOS15.resize_bilinear``, whose interval from 0 to size - 1 is the box's here.
    """
    index = torch.arange(count, dtype=torch.float32)
    first, span = first.unsqueeze(1), (last - first).unsqueeze(1)
    if mode == "ALIGN_CORNERS" and count == 1:
        return first + span / 2
    if mode in ("ALIGN_CORNERS", "STRICT_ALIGN_CORNERS"):
        return first + index * span / max(count - 1, 1)
    if mode == "OFFSET_CORNERS":
        return first + (index + 0.5) * span.clamp(min=1) / count
    whole = span + 1
    if mode == "DEFAULT":
        return first + torch.minimum(index * whole / count, span)
    if mode == "UNALIGN_CORNERS":
        return first + ((index + 0.5) * whole / count - 0.5).clamp(min=0).minimum(span)
    raise ValueError(f"there is no sampling_mode {mode!r}")
