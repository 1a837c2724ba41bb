"""Layers with integer weights of the Core ML package that an ExecuTorch program holds."""

from __future__ import annotations

from pathlib import Path

from lvexport.validation.integers import coreml
from lvexport.validation.integers.layers import Layer
from lvexport.validation.runtimes.executorch_coreml import Held


def layers(artifact: Path) -> list[Layer]:
    with Held(artifact).unpacked() as folder:
        return list(coreml.layers(folder / "model.mlpackage"))
