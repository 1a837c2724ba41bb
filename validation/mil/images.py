"""Image inputs and outputs: from a picture to the tensor that the program receives, and from its result to one.

Core ML hands over channel values from 0 to 255 in the declared layout. Scale and bias are not its business:
coremltools writes them into the program, as multiplications and additions
(``converters/mil/backend/mil/passes/insert_image_preprocessing_op.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lvexport.validation.mil.errors import BadInput
from lvexport.validation.mil.features import Feature, Layout
from lvexport.validation.mil.types import Array

if TYPE_CHECKING:
    from PIL.Image import Image

# Modes that coremltools accepts in predict (``MLModel._verify_pil_image_modes``)
PIL_MODES: dict[Layout, str] = {"RGB": "RGB", "BGR": "RGB", "GRAYSCALE": "L", "GRAYSCALE_FLOAT16": "F"}


def image_tensor(picture: Any, feature: Feature) -> Array:
    """The tensor for an image input: (1, channels, height, width) in the feature's layout and element type.

    Args:
        picture: a PIL image, or an array (height, width, 3) of uint8 in RGB order, or (height, width) for a
            grayscale input (of uint8; of floats for ``GRAYSCALE_FLOAT16``). Its size must be the model's: nothing
            is resized.
        feature: the input.

    Raises:
        BadInput: it is none of these, or of a mode or size that the model does not take.
    """
    assert feature.layout is not None
    pixels = _pixels(picture, feature.name, feature.layout)
    if feature.layout == "BGR":
        pixels = pixels[:, :, ::-1]
    tensor = pixels.transpose(2, 0, 1)[np.newaxis]
    if not feature.admits(tensor.shape):
        height, width = pixels.shape[:2]
        raise BadInput(
            f"The image for input {feature.name!r} is {width}×{height} pixels; the model takes {_sizes(feature)}. "
            "Resize it first: how is part of a model's preprocessing, so it is not guessed here."
        )
    return np.ascontiguousarray(tensor, dtype=feature.dtype)


def picture(tensor: Array, layout: Layout) -> Image:
    """The PIL image that a result is returned as, of the mode that an input of that layout takes.

    Args:
        tensor: (1, channels, height, width), channel values from 0 to 255. They are rounded to the nearest integer,
            and those outside are brought to the limit; ``GRAYSCALE_FLOAT16`` keeps them as they are. Apple does
            not document how Core ML rounds.
        layout: order of the channels.
    """
    from PIL import Image

    mode = PIL_MODES[layout]
    pixels = tensor[0].transpose(1, 2, 0)
    if mode == "F":
        return Image.fromarray(pixels[:, :, 0].astype(np.float32))
    if mode == "L":
        pixels = pixels[:, :, 0]
    elif layout == "BGR":
        pixels = pixels[:, :, ::-1]
    whole = np.nan_to_num(pixels.astype(np.float32)).round().clip(0, 255).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(whole))


def _pixels(picture: Any, name: str, layout: Layout) -> Array:
    """(height, width, channels), color in RGB order."""
    mode = getattr(picture, "mode", None)
    if mode is not None and mode != PIL_MODES[layout]:
        raise BadInput(f"The image for input {name!r} has mode {mode!r}; a {layout} input takes {PIL_MODES[layout]!r}.")
    pixels = np.asarray(picture)
    color = PIL_MODES[layout] == "RGB"
    if layout == "GRAYSCALE_FLOAT16":
        right_type, expected = pixels.dtype.kind == "f", "floats (height, width)"
    else:
        right_type, expected = pixels.dtype == np.uint8, f"uint8 (height, width{', 3' if color else ''})"
    if not right_type or pixels.ndim != (3 if color else 2) or (color and pixels.shape[2] != 3):
        raise BadInput(
            f"The input {name!r} is a {layout} image: pass a PIL image of mode {PIL_MODES[layout]!r} or an array of "
            f"{expected}, not {pixels.dtype} {pixels.shape}."
        )
    return pixels if color else pixels[:, :, np.newaxis]


def _sizes(feature: Feature) -> str:
    if feature.choices:
        return " or ".join(f"{shape[3]}×{shape[2]}" for shape in feature.choices)
    if feature.ranges:
        height, width = feature.ranges[2:]
        return f"width {width[0]} to {width[1] or 'any'}, height {height[0]} to {height[1] or 'any'}"
    width_height = feature.size or ()
    return "×".join("any" if size is None else str(size) for size in width_height)
