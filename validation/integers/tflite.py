"""Integer layers of a ``.tflite`` file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lvexport.validation.integers.layers import Grid, Layer, digest

_LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def layers(artifact: Path) -> Iterator[Layer]:
    from lvexport.validation.runtimes.tflite import interpreter

    loaded = interpreter(artifact, threads=1, delegates=False)
    tensors = {detail["index"]: detail for detail in loaded.get_tensor_details()}
    for operation in loaded._get_ops_details():
        if operation["op_name"] not in _LAYERS:
            continue
        given, weights, output = (tensors[i] for i in (*operation["inputs"][:2], operation["outputs"][0]))
        known = weights["quantization_parameters"]
        if weights["dtype"] != np.int8 or not len(known["scales"]):
            continue
        data, axis = loaded.get_tensor(weights["index"]), int(known["quantized_dimension"])
        scales = np.asarray(known["scales"], np.float64)
        if len(scales) == 1:
            scales = np.repeat(scales, data.shape[axis])
        if np.any(known["zero_points"]):
            scales = scales * np.nan  # weights are symmetric: another zero point makes them other numbers
        yield Layer(weights["name"], digest(data, axis), scales, grid(given), grid(output))


def grid(detail: dict[str, Any]) -> Grid | None:
    scale, zero_point = detail["quantization"]
    return (float(scale), int(zero_point)) if detail["dtype"] in (np.int8, np.int16) and scale else None
