"""ExecuTorch programs for the Core ML delegate: the package is taken out of the program and interpreted."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from lvexport.validation import delegate, pte
from lvexport.validation.contract import INTERPRETED, JUDGED, Array, ArtifactError, Availability, Description, Overflow
from lvexport.validation.watching import NUMERICS, Watched

_BACKEND = "CoreMLBackend"


class Held:
    """The package that a program holds, and what it calls its inputs and outputs.

    Raises ArtifactError where the program cannot be read, and CannotRun where it is more than that package.
    """

    def __init__(self, artifact: Path) -> None:
        program = pte.read(artifact)
        self.interface = program.interface
        self._artifact, self._delegate = artifact, program.only_delegate(_BACKEND)
        with self.unpacked() as folder:
            names = json.loads((folder / "metadata.json").read_text())
            self.inputs, self.outputs = list(names["inputNames"]), list(names["outputNames"])

    def load(self, numerics: str = JUDGED) -> Any:
        """The package in the reference interpreter. Raises ArtifactError."""
        from lvexport.validation import mil

        with self.unpacked() as folder:
            return mil.load(folder / "model.mlpackage", numerics=numerics)

    @contextmanager
    def unpacked(self) -> Iterator[Path]:
        """A folder with the delegate's files. What is loaded from it does not need them any more."""
        from lvexport.validation import mil

        with tempfile.TemporaryDirectory(prefix="lvexport-") as scratch:
            try:
                delegate.unpack(self._delegate, Path(scratch))
                yield Path(scratch)
            except (mil.MilError, OSError, ValueError, KeyError, TypeError) as error:
                raise ArtifactError(f"the Core ML package in {self._artifact} cannot be read: {error}") from error


class DelegateSession:
    """A program that is one call of the delegate: its inputs are the package's, in the order of ``metadata.json``.

    ``predict`` follows coremltools' calling convention; the model's own by default.
    """

    def __init__(self, held: Held, model: Any, predict: Any = None) -> None:
        self._held = held
        self._predict = predict or model.predict
        self.numerics: tuple[str, ...] = NUMERICS if model.computes_in_half else ()
        self._taken = {feature.name: feature.dtype for feature in model.inputs}
        self.inputs, self.outputs = held.interface.inputs, held.interface.outputs

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        given = {
            name: inputs[s.name].astype(self._taken[name], copy=False)
            for name, s in zip(self._held.inputs, self.inputs, strict=True)
        }
        answer = self._predict(given)
        return {
            s.name: np.asarray(answer[name]).astype(s.dtype).reshape(s.shape)
            for name, s in zip(self._held.outputs, self.outputs, strict=True)
        }

    def under(self, numerics: str) -> NumericalSession:
        return NumericalSession(self._held, self._held.load(numerics), numerics)


class NumericalSession(DelegateSession):
    """The package with one of the interpreter's numerics, on the lookout for the first overflow."""

    def __init__(self, held: Held, model: Any, numerics: str) -> None:
        self._watched = Watched(model, numerics, held.load)
        super().__init__(held, model, self._watched.predict)

    @property
    def overflow(self) -> Overflow | None:
        return self._watched.overflow

    def under(self, numerics: str) -> NumericalSession:
        return self if numerics == self._watched.numerics else super().under(numerics)


class ExecuTorchCoreML:
    def available(self) -> Availability:
        try:
            version("coremltools"), version("executorch")
        except PackageNotFoundError:
            reason = "executorch or coremltools is not installed: pip install 'lvexport[executorch,coreml]'"
            return Availability(False, "lvexport MIL reference interpreter", reason)
        name = f"lvexport MIL reference interpreter (torch {version('torch')}), package taken out"
        return Availability(True, name, untimed=INTERPRETED)

    def load(self, artifact: Path, threads: int) -> DelegateSession:
        import torch

        torch.set_num_threads(threads)
        held = Held(artifact)
        model = held.load()
        return NumericalSession(held, model, JUDGED) if model.computes_in_half else DelegateSession(held, model)

    def describe(self, artifact: Path) -> Description:
        held = Held(artifact)
        model = held.load()
        session = DelegateSession(held, model)
        operators = Counter(operation.type for operation in model.operations)
        remarks = ("one Core ML package, and no operators outside it",)
        return Description(session.inputs, session.outputs, dict(operators), remarks)


RUNTIME = ExecuTorchCoreML()
