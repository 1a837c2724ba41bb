"""Core ML: Apple's own framework on macOS; elsewhere the reference interpreter of the saved package."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lvexport.converters.contract import TensorSpec
from lvexport.validation.contract import (
    JUDGED,
    PICTURE,
    PROBABILITIES,
    Array,
    ArtifactError,
    Availability,
    Description,
    Overflow,
)

ON_MACOS = sys.platform == "darwin"
NUMERICS = ("exact", JUDGED, "pessimistic")  # of the interpreter; on a Mac they bound what Core ML may do


class CoreMLSession:
    """``predict`` is Core ML's or the interpreter's: both follow coremltools' calling convention."""

    def __init__(self, artifact: Path, model: Any, predict: Any) -> None:
        self._artifact = artifact
        self._predict = predict
        self.numerics: tuple[str, ...] = NUMERICS if model.computes_in_half else ()
        self._labels = model.labels
        self.labels = tuple(map(str, model.labels))
        self.inputs = tuple(map(input_spec, model.inputs))
        self.outputs = tuple(output_spec(o, len(model.labels)) for o in model.outputs if o.kind != "label")

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        answer = self._predict(
            {s.name: picture(inputs[s.name]) if s.dtype == PICTURE else inputs[s.name] for s in self.inputs}
        )
        return {s.name: self._array(answer[s.name], s) for s in self.outputs}

    def under(self, numerics: str) -> NumericalSession:
        return NumericalSession(self._artifact, numerics)

    def _array(self, value: Any, spec: TensorSpec) -> Array:
        import numpy as np

        if spec.dtype == PROBABILITIES:
            return np.asarray([[value[label] for label in self._labels]], np.float32)
        return np.asarray(value)


class NumericalSession(CoreMLSession):
    """The interpreter, with one of its numerics, on the lookout for the first overflow."""

    def __init__(self, artifact: Path, numerics: str) -> None:
        self._model = loaded(artifact, numerics)
        self._name = numerics
        self._exact: Any = None  # only loaded if there is something to compare
        self.overflow: Overflow | None = None
        super().__init__(artifact, self._model, self._watched)

    def _watched(self, data: Mapping[str, Any]) -> Mapping[str, Any]:
        from lvexport.validation.mil.overflow import NotFinite, first_overflow

        seen, exact = NotFinite(), NotFinite()
        answer: Mapping[str, Any] = self._model.watched(data, seen)
        if seen.found and self.overflow is None:
            self._exact = self._exact or loaded(self._artifact, "exact")
            self._exact.watched(data, exact)
            operation = first_overflow(seen, exact)
            self.overflow = None if operation is None else Overflow(self._name, operation)
        return answer


class CoreML:
    def available(self) -> Availability:
        try:
            tools = version("coremltools")
        except PackageNotFoundError:
            return Availability(False, "Core ML", "coremltools is not installed: pip install 'lvexport[coreml]'")
        if ON_MACOS:
            import platform

            return Availability(True, f"Core ML on macOS {platform.mac_ver()[0]} (coremltools {tools})")
        return Availability(True, f"lvexport MIL reference interpreter (torch {version('torch')})")

    def load(self, artifact: Path, threads: int) -> CoreMLSession:
        import torch

        torch.set_num_threads(threads)
        model = loaded(artifact)
        return CoreMLSession(artifact, model, apples_predict(artifact) if ON_MACOS else model.predict)

    def describe(self, artifact: Path) -> Description:
        model = loaded(artifact)
        session = CoreMLSession(artifact, model, model.predict)
        operators = Counter(operation.type for operation in model.operations)
        return Description(session.inputs, session.outputs, dict(operators))


def loaded(artifact: Path, numerics: str = JUDGED) -> Any:
    """The package in the reference interpreter. Raises ArtifactError."""
    from lvexport.validation import mil

    try:
        return mil.load(artifact, numerics=numerics)
    except mil.MilError as error:
        raise ArtifactError(str(error)) from error


def apples_predict(artifact: Path) -> Any:
    """Core ML itself, on all of the Mac's compute units."""
    import coremltools

    return coremltools.models.MLModel(str(artifact)).predict


def picture(pixels: Array) -> Any:
    from PIL import Image

    return Image.fromarray(pixels)


def input_spec(feature: Any) -> TensorSpec:
    if feature.kind == "image":
        _, _, height, width = feature.shape
        return TensorSpec(feature.name, (height, width, 3), PICTURE)
    shape = () if None in feature.shape else tuple(feature.shape)  # no shape: the artifact itself says what it takes
    return TensorSpec(feature.name, shape, feature.dtype)


def output_spec(feature: Any, classes: int) -> TensorSpec:
    if feature.kind == "probabilities":
        return TensorSpec(feature.name, (1, classes), PROBABILITIES)
    return TensorSpec(feature.name, tuple(feature.shape or ()), feature.dtype)


RUNTIME = CoreML()
