"""ExecuTorch's runtime, with the XNNPACK delegate and the portable kernels of its wheel."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
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
    def __init__(self, program: Any) -> None:
        self._program, self._method = program, program.load_method("forward")
        meta = self._method.method_meta()
        self.inputs = tuple(spec(f"input_{i}", meta.input_tensor_meta(i)) for i in range(meta.num_inputs()))
        self.outputs = tuple(spec(f"output_{i}", meta.output_tensor_meta(i)) for i in range(meta.num_outputs()))

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        import torch

        given = [torch.from_numpy(np.ascontiguousarray(inputs[s.name])) for s in self.inputs]
        results = self._method(given)
        # The runtime reuses the memory of its outputs.
        return {s.name: value.numpy().copy() for s, value in zip(self.outputs, results, strict=True)}


class ExecuTorchRuntime:
    def available(self) -> Availability:
        try:
            return Availability(True, f"ExecuTorch {version('executorch')}")
        except PackageNotFoundError:
            return Availability(False, "ExecuTorch", "executorch is not installed: pip install 'lvexport[executorch]'")

    def load(self, artifact: Path, threads: int) -> ExecuTorchSession:
        library = bindings()
        library._unsafe_reset_threadpool(threads)  # "unsafe" while a program runs; none has been loaded yet
        check_identifier(artifact)
        whole = library.Verification.InternalConsistency
        try:
            return ExecuTorchSession(library._load_program(str(artifact), program_verification=whole))
        except RuntimeError as error:
            raise ArtifactError(f"ExecuTorch cannot load {artifact}: {error}") from error

    def describe(self, artifact: Path) -> Description:
        session = self.load(artifact, threads=1)
        return Description(session.inputs, session.outputs, pte.read(artifact).calls())


def bindings() -> Any:
    """What ``executorch.runtime`` wraps, without the exporter, which that loads for the name of a warning.

    The exporter takes twice as long to import as PyTorch and the runtime together.
    """
    if sys.platform == "win32":  # where that module also says where libraries are
        return import_module("executorch.extension.pybindings.portable_lib")
    import_module("torch")  # which loads the libraries that the bindings need
    return import_module("executorch.extension.pybindings._C")


def check_identifier(artifact: Path) -> None:
    with artifact.open("rb") as file:
        if file.read(8)[4:] != _IDENTIFIER:
            raise ArtifactError(f"{artifact} is not an ExecuTorch program: its identifier is missing.")


def spec(name: str, meta: Any) -> TensorSpec:
    return TensorSpec(name, tuple(meta.sizes()), _DTYPES.get(meta.dtype(), str(meta.dtype())))


RUNTIME = ExecuTorchRuntime()
