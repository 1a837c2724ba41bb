"""TensorFlow Lite Micro's own interpreter, with its reference kernels, as its Python package has it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lvexport.validation import flatbuffer
from lvexport.validation.contract import Array, ArtifactError, Availability, Description
from lvexport.validation.grids import off_grid, on_grid, spec

_LARGEST_ARENA = 2**30  # bytes
_UNTIMED = "reference kernels compute it here, whose time says nothing of a microcontroller"


class TFLMSession:
    """Inputs and outputs that are 8-bit integers on a grid are handed over as the numbers that they stand for."""

    def __init__(self, artifact: Path) -> None:
        model = flatbuffer.read(artifact)
        self._interpreter = interpreter(artifact)
        self._given, self._made = flatbuffer.tensors(model, "inputs"), flatbuffer.tensors(model, "outputs")
        self.inputs, self.outputs = tuple(map(spec, self._given)), tuple(map(spec, self._made))

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        for index, detail in enumerate(self._given):
            self._interpreter.set_input(on_grid(detail, inputs[detail["name"]]), index)
        self._interpreter.invoke()
        return {d["name"]: off_grid(d, self._interpreter.get_output(i)) for i, d in enumerate(self._made)}


class TFLMRuntime:
    def available(self) -> Availability:
        try:
            version("ai-edge-litert")  # whose schema the file is read with
            return Availability(True, f"TensorFlow Lite Micro {version('tflite-micro')}", untimed=_UNTIMED)
        except PackageNotFoundError as error:
            reason = f"{error.name} is not installed: pip install 'lvexport[tflm]'"
            return Availability(False, "TensorFlow Lite Micro", reason)

    def load(self, artifact: Path, threads: int) -> TFLMSession:
        """Load an artifact; the interpreter has one thread, whatever ``threads`` says."""
        return TFLMSession(artifact)

    def describe(self, artifact: Path) -> Description:
        return flatbuffer.describe(artifact)


def interpreter(artifact: Path) -> Any:
    """An interpreter with an arena that is large enough, if less than a GiB is."""
    from tflite_micro import runtime

    model = artifact.read_bytes()
    arena = 10 * len(model)
    while True:
        try:
            return runtime.Interpreter.from_bytes(model, arena_size=arena)
        except RuntimeError as error:
            if arena >= _LARGEST_ARENA:
                raise ArtifactError(f"TensorFlow Lite Micro cannot load {artifact}: {error}") from error
            arena = min(4 * arena, _LARGEST_ARENA)


RUNTIME = TFLMRuntime()
