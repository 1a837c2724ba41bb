"""ExecuTorch's runtime, with the XNNPACK delegate and the portable kernels of its wheel."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from lvexport.converters.contract import TensorSpec
from lvexport.validation import pte
from lvexport.validation.contract import Array, ArtifactError, Availability, Description

_IDENTIFIER = b"ET12"  # bytes 4 to 8 of every .pte file (schema/program.fbs, file_identifier)
# c10::ScalarType (c10/core/ScalarType.h) → numpy's name
_DTYPES = {
    0: "uint8",
    1: "int8",
    2: "int16",
    3: "int32",
    4: "int64",
    5: "float16",
    6: "float32",
    7: "float64",
    11: "bool",
}


class ExecuTorchSession:
    def __init__(self, method: Any) -> None:
        self._method = method
        meta = method.metadata
        self.inputs = tuple(spec(f"input_{i}", meta.input_tensor_meta(i)) for i in range(meta.num_inputs()))
        self.outputs = tuple(spec(f"output_{i}", meta.output_tensor_meta(i)) for i in range(meta.num_outputs()))

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        import torch

        given = [torch.from_numpy(np.ascontiguousarray(inputs[s.name])) for s in self.inputs]
        results = self._method.execute(given)
        # The runtime reuses the memory of its outputs.
        return {s.name: value.numpy().copy() for s, value in zip(self.outputs, results, strict=True)}


class ExecuTorchRuntime:
    def available(self) -> Availability:
        try:
            return Availability(True, f"ExecuTorch {version('executorch')}")
        except PackageNotFoundError:
            return Availability(False, "ExecuTorch", "executorch is not installed: pip install 'lvexport[executorch]'")

    def load(self, artifact: Path, threads: int) -> ExecuTorchSession:
        from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
        from executorch.runtime import Runtime, Verification

        # "Unsafe" while a program runs; none has been loaded yet.
        _unsafe_reset_threadpool(threads)
        check_identifier(artifact)
        try:
            program = Runtime.get().load_program(artifact, verification=Verification.InternalConsistency)
            method = program.load_method("forward")
        except RuntimeError as error:
            raise ArtifactError(f"ExecuTorch cannot load {artifact}: {error}") from error
        if method is None:
            raise ArtifactError(f"{artifact} has no method named forward.")
        return ExecuTorchSession(method)

    def describe(self, artifact: Path) -> Description:
        session = self.load(artifact, threads=1)
        return Description(session.inputs, session.outputs, pte.read(artifact).calls())


def check_identifier(artifact: Path) -> None:
    with artifact.open("rb") as file:
        if file.read(8)[4:] != _IDENTIFIER:
            raise ArtifactError(f"{artifact} is not an ExecuTorch program: its identifier is missing.")


def spec(name: str, meta: Any) -> TensorSpec:
    return TensorSpec(name, tuple(meta.sizes()), _DTYPES.get(meta.dtype(), str(meta.dtype())))


RUNTIME = ExecuTorchRuntime()
