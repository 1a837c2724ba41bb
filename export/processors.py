"""What the image processors of transformers do to a picture, read from their configuration."""

from __future__ import annotations

from typing import Any

from lvexport.errors import UsageError
from lvexport.models.preprocessing import Preprocessing
from lvexport.overrides import Colour

Settings = dict[str, Any]
# Pillow's numbers, of which ``resample`` is one, for what there is here.
RESAMPLING = {2: "bilinear", 3: "bicubic"}
# transformers' image_processing_mobilevit.py: it normalises nothing, and turns the colours round unless told not to.
BLUE_FIRST = "MobileViT"


def own_size(config: Settings, processor: Settings) -> int | None:
    """Pixels a side of the pictures that the model was trained on, where that is said."""
    crop = side(processor.get("crop_size")) if processor.get("do_center_crop", True) else None
    return crop or side(processor.get("size")) or side(config.get("image_size"))


def side(size: object) -> int | None:
    """Pixels a side, in any of the ways in which processors write sizes."""
    if isinstance(size, dict):
        size = size.get("shortest_edge") or size.get("height")
    if isinstance(size, list | tuple) and size:
        size = size[0]
    return size if isinstance(size, int) else None


def preprocessing(processor: Settings, imgsz: int, interpolation: str | None) -> Preprocessing:
    """What an image processor of transformers does, from its configuration."""
    kind = str(processor.get("image_processor_type") or processor.get("feature_extractor_type") or "")
    turned = kind.startswith(BLUE_FIRST)
    flip = processor.get("do_flip_channel_order", processor.get("do_flip_channels", turned))
    mean, std = normalisation(processor, plain=turned)
    return Preprocessing(
        mean,
        std,
        interpolation or resampling(processor.get("resample", 2)),
        crop_pct(processor, imgsz),
        "BGR" if flip else "RGB",
    )


def normalisation(processor: Settings, plain: bool) -> tuple[Colour, Colour]:
    """Mean and standard deviation of pixels from 0 to 1. Processors may scale 0…255 by another factor than 1/255."""
    factor = 255 * (processor.get("rescale_factor", 1 / 255) if processor.get("do_rescale", True) else 1)
    offset = 1.0 if processor.get("rescale_offset") else 0.0
    mean, std = processor.get("image_mean"), processor.get("image_std")
    if not processor.get("do_normalize", not plain) or mean is None or std is None:
        mean, std = [0.0] * 3, [1.0] * 3
    r, g, b = ((m + offset) / factor for m in mean)
    x, y, z = (s / factor for s in std)
    return (r, g, b), (x, y, z)


def resampling(number: int) -> str:
    if number not in RESAMPLING:
        raise UsageError(
            f"The model's pictures are resized in a way that is not known here (Pillow's number {number}). Choose one "
            "with --interpolation bilinear or --interpolation bicubic."
        )
    return RESAMPLING[number]


def crop_pct(processor: Settings, imgsz: int) -> float:
    """Share of the resized picture's side that is kept."""
    if "crop_pct" in processor:  # ConvNeXt's: not for pictures of 384 pixels and more (image_processing_convnext.py)
        return float(processor["crop_pct"] or 1.0) if imgsz < 384 else 1.0
    resized = side(processor.get("size"))
    cropped = processor.get("do_center_crop", True) and processor.get("do_resize", True) and resized
    return min(1.0, imgsz / resized) if cropped and resized else 1.0
