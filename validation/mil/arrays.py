"""Array inputs: from what a caller has to an array of the declared element type and an admitted shape."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from lvexport.validation.mil.errors import BadInput
from lvexport.validation.mil.features import Feature
from lvexport.validation.mil.types import Array


def input_array(value: Any, feature: Feature) -> Array:
    """``value`` as the program receives it.

    Args:
        value: anything that NumPy takes, or a tensor. Numbers of another type are converted: for an integer input
            fractions are cut off, which coremltools' tests count on (``assert_model_is_valid`` in
            ``converters/mil/testing_utils.py`` gives numbers from 0 to 1 to every input). One element fits an input
            of one element, whatever the rank of either.
        feature: the input.

    Raises:
        BadInput: it is no array of numbers, not of an admitted shape, or of integers that the type cannot hold.
    """
    try:
        array = np.asarray(value.detach() if isinstance(value, Tensor) else value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise BadInput(f"What was passed for input {feature.name!r} is no array: {error}.") from error
    if array.dtype.kind not in "biuf":
        raise BadInput(f"The input {feature.name!r} takes numbers; given was {array.dtype}.")
    if 0 in (array.ndim, len(feature.shape)) and array.size == 1 and all(size == 1 for size in feature.shape):
        array = array.reshape((1,) * len(feature.shape))
    if not feature.admits(array.shape):
        raise BadInput(
            f"The input {feature.name!r} takes the shape {_shape(feature)}; given was {array.shape}."
            f"{_as_core_ml_says(feature, array.shape)}"
        )
    with np.errstate(over="ignore", invalid="ignore"):  # too large for float16 is infinite, as on a device
        converted = array.astype(feature.dtype)
    if converted.dtype.kind in "iu" and not np.array_equal(converted, np.trunc(array)):
        raise BadInput(f"The input {feature.name!r} takes {feature.dtype}; given were values that it cannot hold.")
    return converted


def _as_core_ml_says(feature: Feature, shape: tuple[int, ...]) -> str:
    """Core ML's own words, by which people search for them; those that coremltools' tests quote.

    They are in ``converters/mil/frontend/torch/test/test_torch_conversion_api.py``.
    """
    if feature.choices:
        return f" MultiArray Shape ({' x '.join(map(str, shape))}) was not in enumerated set of allowed shapes."
    for place, (size, (least, most)) in enumerate(zip(shape, feature.ranges, strict=False)):
        if most is not None and not least <= size <= most:
            return f" Size ({size}) of dimension ({place}) is not in allowed range ({least}..{most})."
    return ""


def _shape(feature: Feature) -> str:
    if feature.choices:
        return " or ".join(str(shape) for shape in feature.choices)
    sizes = ["any" if size is None else str(size) for size in feature.shape]
    for place, (least, most) in enumerate(feature.ranges):
        if feature.shape[place] is None:
            sizes[place] = f"{least} to {'any' if most is None else most}"
    return f"({', '.join(sizes)})"
