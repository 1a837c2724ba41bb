"""The targets, one row each."""

from __future__ import annotations

from lvexport.converters import (
    coreai,
    coreml,
    ethos_u,
    executorch,
    executorch_coreml,
    executorch_ethos_u,
    onnx,
    tflite,
    tflm,
)
from lvexport.converters.contract import Converter

CONVERTERS: dict[str, Converter] = {
    converter.name: converter
    for converter in (
        coreml.CONVERTER,
        tflite.CONVERTER,
        executorch.CONVERTER,
        onnx.CONVERTER,
        coreai.CONVERTER,
        executorch_coreml.CONVERTER,
        tflm.CONVERTER,
        ethos_u.CONVERTER,
        executorch_ethos_u.CONVERTER,
    )
}
ALIASES = {"litert": "tflite"}
