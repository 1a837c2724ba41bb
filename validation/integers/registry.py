"""Which module reads the integers of which target's artifacts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import cast

from lvexport.validation.integers.layers import Layer

READERS = {
    "tflite": "tflite",
    "tflm": "tflite",
    "onnx": "onnx",
    "executorch": "executorch",
    "coreml": "coreml",
    "coreai": "coreai",
    "executorch:coreml": "executorch_coreml",
}


def reader(target: str) -> Callable[[Path], Iterable[Layer]] | None:
    """What reads a target's artifacts; None where nothing does."""
    if target not in READERS:
        return None
    module = import_module(f"lvexport.validation.integers.{READERS[target]}")
    return cast("Callable[[Path], Iterable[Layer]]", module.layers)
