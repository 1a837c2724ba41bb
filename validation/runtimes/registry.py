"""The runtimes, one row a target."""

from __future__ import annotations

from lvexport.validation.contract import Runtime
from lvexport.validation.runtimes import (
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

RUNTIMES: dict[str, Runtime] = {
    "coreml": coreml.RUNTIME,
    "tflite": tflite.RUNTIME,
    "executorch": executorch.RUNTIME,
    "onnx": onnx.RUNTIME,
    "coreai": coreai.RUNTIME,
    "executorch:coreml": executorch_coreml.RUNTIME,
    "tflm": tflm.RUNTIME,
    "ethos-u": ethos_u.RUNTIME,
    "executorch:ethos-u": executorch_ethos_u.RUNTIME,
}
