"""ExecuTorch programs for the Core ML delegate: the package is taken out of the program and interpreted."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from lvexport.validation import delegate, pte
from lvexport.validation.contract import Array, ArtifactError, Availability, Description

_BACKEND = "CoreMLBackend"


class DelegateSession:
    """A program that is one call of the delegate: its inputs are the package's, in the order of ``metadata.json``."""

    def __init__(self, model: Any, names: Mapping[str, Sequence[str]], program: pte.Interface) -> None:
        self._model = model
        self._taken = {feature.name: feature.dtype for feature in model.inputs}
        self._inputs, self._outputs = names["inputNames"], names["outputNames"]
        self.inputs, self.outputs = program.inputs, program.outputs

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        given = {
            name: inputs[s.name].astype(self._taken[name], copy=False)
            for name, s in zip(self._inputs, self.inputs, strict=True)
        }
        answer = self._model.predict(given)
        return {
            s.name: np.asarray(answer[name]).astype(s.dtype).reshape(s.shape)
            for name, s in zip(self._outputs, self.outputs, strict=True)
        }


class ExecuTorchCoreML:
    def available(self) -> Availability:
        try:
            version("coremltools"), version("executorch")
        except PackageNotFoundError:
            reason = "executorch or coremltools is not installed: pip install 'lvexport[executorch,coreml]'"
            return Availability(False, "lvexport MIL reference interpreter", reason)
        return Availability(True, f"lvexport MIL reference interpreter (torch {version('torch')}), package taken out")

    def load(self, artifact: Path, threads: int) -> DelegateSession:
        import torch

        torch.set_num_threads(threads)
        return open_program(artifact)[0]

    def describe(self, artifact: Path) -> Description:
        session, model = open_program(artifact)
        operators = Counter(operation.type for operation in model.operations)
        remarks = ("one Core ML package, and no operators outside it",)
        return Description(session.inputs, session.outputs, dict(operators), remarks)


def open_program(artifact: Path) -> tuple[DelegateSession, Any]:
    """The program's session, and the package that it runs."""
    from lvexport.validation import mil

    program = pte.read(artifact)
    blob = program.only_delegate(_BACKEND)
    with tempfile.TemporaryDirectory(prefix="lvexport-") as scratch:  # what is loaded does not need the files any more
        folder = Path(scratch)
        try:
            delegate.unpack(blob, folder)
            names = json.loads((folder / "metadata.json").read_text())
            model = mil.load(folder / "model.mlpackage")
            return DelegateSession(model, names, program.interface), model
        except (mil.MilError, OSError, ValueError, KeyError) as error:
            raise ArtifactError(f"the Core ML package in {artifact} cannot be read: {error}") from error


RUNTIME = ExecuTorchCoreML()
