"""The targets, one row each."""

from __future__ import annotations

from lvexport.converters import coreml, executorch, onnx, tflite
from lvexport.converters.contract import Converter

CONVERTERS: dict[str, Converter] = {
    converter.name: converter
    for converter in (coreml.CONVERTER, tflite.CONVERTER, executorch.CONVERTER, onnx.CONVERTER)
}
ALIASES = {"litert": "tflite"}
