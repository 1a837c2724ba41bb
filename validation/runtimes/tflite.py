"""LiteRT, the vendor's own runtime (formerly TensorFlow Lite), with its XNNPACK kernels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lvexport.validation.contract import Array, ArtifactError, Availability, Description
from lvexport.validation.grids import off_grid, on_grid, spec

_IDENTIFIER = b"TFL3"  # bytes 4 to 8 of every .tflite file (schema.fbs, file_identifier)


class LiteRTSession:
    """Inputs and outputs that are 8-bit integers on a grid are handed over as the numbers that they stand for."""

    def __init__(self, interpreter: Any) -> None:
        self._interpreter = interpreter
        self._input_details = interpreter.get_input_details()
        self._output_details = interpreter.get_output_details()
        self.inputs = tuple(map(spec, self._input_details))
        self.outputs = tuple(map(spec, self._output_details))

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        for detail in self._input_details:
            self._interpreter.set_tensor(detail["index"], on_grid(detail, inputs[detail["name"]]))
        self._interpreter.invoke()
        return {d["name"]: off_grid(d, self._interpreter.get_tensor(d["index"])) for d in self._output_details}


class LiteRT:
    def available(self) -> Availability:
        try:
            return Availability(True, f"LiteRT {version('ai-edge-litert')}")
        except PackageNotFoundError:
            return Availability(False, "LiteRT", "ai-edge-litert is not installed: pip install 'lvexport[tflite]'")

    def load(self, artifact: Path, threads: int) -> LiteRTSession:
        return LiteRTSession(interpreter(artifact, threads))

    def describe(self, artifact: Path) -> Description:
        loaded = interpreter(artifact, threads=1, delegates=False)
        operators = Counter(detail["op_name"] for detail in loaded._get_ops_details())
        session = LiteRTSession(loaded)
        return Description(session.inputs, session.outputs, dict(operators))


def interpreter(artifact: Path, threads: int, delegates: bool = True) -> Any:
    """An interpreter that has its memory. Without delegates it shows the operators as they are in the file."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    with artifact.open("rb") as file:
        if file.read(8)[4:] != _IDENTIFIER:
            raise ArtifactError(f"{artifact} is not a TFLite model: its identifier is missing.")
    resolver = OpResolverType.AUTO if delegates else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    try:
        loaded = Interpreter(model_path=str(artifact), num_threads=threads, experimental_op_resolver_type=resolver)
        loaded.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ArtifactError(f"LiteRT cannot load {artifact}: {error}") from error
    return loaded


RUNTIME = LiteRT()
