"""Tensors of TFLite models that hold whole numbers on a grid, and the numbers that these stand for.

A tensor is described as LiteRT does it: a mapping with ``name``, ``shape``, ``dtype`` and ``quantization``, its scale,
0 where it has none, and zero point.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lvexport.converters.contract import TensorSpec
from lvexport.validation.contract import Array, numpy_name


def spec(detail: Mapping[str, Any]) -> TensorSpec:
    dtype = np.float32 if is_quantized(detail) else detail["dtype"]
    return TensorSpec(detail["name"], tuple(int(n) for n in detail["shape"]), numpy_name(dtype))


def is_quantized(detail: Mapping[str, Any]) -> bool:
    """Whether a tensor holds whole numbers that stand for others: it then has a scale."""
    return np.issubdtype(detail["dtype"], np.integer) and detail["quantization"][0] != 0


def on_grid(detail: Mapping[str, Any], values: Array) -> Array:
    """The whole numbers that stand for the values, as the tensor has them."""
    if not is_quantized(detail):
        return values
    scale, zero_point = detail["quantization"]
    bounds = np.iinfo(detail["dtype"])
    rounded = np.rint(values / np.float32(scale)) + zero_point
    return np.asarray(np.clip(rounded, bounds.min, bounds.max), detail["dtype"])


def off_grid(detail: Mapping[str, Any], values: Array) -> Array:
    """The values that a tensor's whole numbers stand for."""
    if not is_quantized(detail):
        return values
    scale, zero_point = detail["quantization"]
    return np.asarray((values.astype(np.float32) - zero_point) * np.float32(scale))
