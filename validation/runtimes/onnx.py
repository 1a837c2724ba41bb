"""ONNX Runtime, on the processor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lvexport.converters.contract import TensorSpec
from lvexport.validation.contract import Array, ArtifactError, Availability, Description

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(bool)": "bool",
}


class OnnxSession:
    def __init__(self, session: Any) -> None:
        self._session = session
        self.inputs = tuple(map(spec, session.get_inputs()))
        self.outputs = tuple(map(spec, session.get_outputs()))

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        names = [output.name for output in self.outputs]
        return dict(zip(names, self._session.run(names, dict(inputs)), strict=True))


class OnnxRuntime:
    def available(self) -> Availability:
        try:
            return Availability(True, f"ONNX Runtime {version('onnxruntime')}")
        except PackageNotFoundError:
            return Availability(False, "ONNX Runtime", "onnxruntime is not installed: pip install 'lvexport[onnx]'")

    def load(self, artifact: Path, threads: int) -> OnnxSession:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors only: its warnings speak of its own optimiser
        try:
            session = onnxruntime.InferenceSession(str(artifact), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's classes derive from nothing narrower
            raise ArtifactError(f"ONNX Runtime cannot load {artifact}: {error}") from error
        return OnnxSession(session)

    def describe(self, artifact: Path) -> Description:
        import onnx
        from google.protobuf.message import DecodeError

        try:
            graph = onnx.load(str(artifact)).graph
        except DecodeError as error:
            raise ArtifactError(f"{artifact} is not an ONNX model: {error}") from error
        session = self.load(artifact, threads=1)
        return Description(session.inputs, session.outputs, dict(Counter(node.op_type for node in graph.node)))


def spec(value: Any) -> TensorSpec:
    dtype = _DTYPES.get(value.type, value.type.removeprefix("tensor(").rstrip(")"))
    return TensorSpec(value.name, tuple(n if isinstance(n, int) else -1 for n in value.shape), dtype)


RUNTIME = OnnxRuntime()
