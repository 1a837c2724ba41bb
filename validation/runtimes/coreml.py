"""Core ML: Apple's own framework on macOS; elsewhere the reference interpreter of the saved package."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from lvexport.converters.contract import TensorSpec
from lvexport.validation.contract import (
    INTERPRETED,
    JUDGED,
    PICTURE,
    PROBABILITIES,
    Array,
    ArtifactError,
    Availability,
    Description,
    OpCost,
    Overflow,
)
from lvexport.validation.watching import NUMERICS, Watched, new_state

ON_MACOS = sys.platform == "darwin"


class CoreMLSession:
    """``engine`` is Core ML or the interpreter: both follow coremltools' calling convention."""

    def __init__(self, artifact: Path, model: Any, engine: Any) -> None:
        self._artifact = artifact
        self._model = model
        self._engine = engine
        self._state = new_state(engine, model)
        self.numerics: tuple[str, ...] = NUMERICS if model.computes_in_half else ()
        self.labels = tuple(map(str, model.labels))
        self._taken = {f.name: f for f in model.inputs}
        self._made = {f.name: f for f in model.outputs if f.kind != "label"}
        self.inputs = tuple(map(input_spec, model.inputs))
        self.outputs = tuple(output_spec(f, len(model.labels)) for f in self._made.values())

    def restart(self) -> None:
        self._state = new_state(self._engine, self._model)

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        answer = self._predict(self._given(inputs))
        return {name: returned(answer[name], feature, self._model.labels) for name, feature in self._made.items()}

    def under(self, numerics: str) -> NumericalSession:
        return NumericalSession(self._artifact, loaded(self._artifact, numerics), numerics)

    def profile(self, inputs: Mapping[str, Array], inferences: int) -> tuple[OpCost, ...]:
        """Of the interpreter, on a Mac too: Core ML does not tell."""
        state = new_state(self._model, self._model)
        found = self._model.profile(self._given(inputs), state, predictions=inferences)
        return tuple(OpCost(**asdict(op)) for op in found.ops)

    def _given(self, inputs: Mapping[str, Array]) -> Mapping[str, Any]:
        return {name: given(inputs[name], feature) for name, feature in self._taken.items()}

    def _predict(self, data: Mapping[str, Any]) -> Mapping[str, Any]:
        answer: Mapping[str, Any] = self._engine.predict(data, state=self._state)
        return answer


class NumericalSession(CoreMLSession):
    """The interpreter, with one of its numerics, on the lookout for the first overflow."""

    def __init__(self, artifact: Path, model: Any, numerics: str) -> None:
        self._watched = Watched(model, numerics, partial(loaded, artifact))
        super().__init__(artifact, model, model)

    @property
    def overflow(self) -> Overflow | None:
        return self._watched.overflow

    def restart(self) -> None:
        super().restart()
        self._watched.restart()

    def under(self, numerics: str) -> NumericalSession:
        return self if numerics == self._watched.numerics else super().under(numerics)

    def _predict(self, data: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._watched.predict(data, self._state)


class CoreML:
    def available(self) -> Availability:
        try:
            tools = version("coremltools")
        except PackageNotFoundError:
            return Availability(False, "Core ML", "coremltools is not installed: pip install 'lvexport[coreml]'")
        if ON_MACOS:
            import platform

            return Availability(True, f"Core ML on macOS {platform.mac_ver()[0]} (coremltools {tools})")
        return Availability(True, f"lvexport MIL reference interpreter (torch {version('torch')})", untimed=INTERPRETED)

    def load(self, artifact: Path, threads: int) -> CoreMLSession:
        import torch

        torch.set_num_threads(threads)
        model = loaded(artifact)
        if model.computes_in_half and not ON_MACOS:
            return NumericalSession(artifact, model, JUDGED)
        return CoreMLSession(artifact, model, apples(artifact) if ON_MACOS else model)

    def describe(self, artifact: Path) -> Description:
        model = loaded(artifact)
        session = CoreMLSession(artifact, model, model)
        operators = Counter(operation.type for operation in model.operations)
        return Description(session.inputs, session.outputs, dict(operators))


def loaded(artifact: Path, numerics: str = JUDGED) -> Any:
    """The package in the reference interpreter. Raises ArtifactError."""
    from lvexport.validation import mil

    try:
        return mil.load(artifact, numerics=numerics)
    except mil.MilError as error:
        raise ArtifactError(str(error)) from error


def apples(artifact: Path) -> Any:
    """Core ML itself, on all of the Mac's compute units."""
    import coremltools

    return coremltools.models.MLModel(str(artifact))


def given(value: Array, feature: Any) -> Any:
    """An input as predict takes it."""
    from PIL import Image

    if feature.kind != "image":
        return value
    return Image.fromarray(value.astype(np.float32) if feature.layout == "GRAYSCALE_FLOAT16" else value)


def returned(value: Any, feature: Any, labels: Sequence[Any]) -> Array:
    """An output of predict as an array of the shape that ``output_spec`` says."""
    if feature.kind == "probabilities":
        return np.asarray([[value[label] for label in labels]], np.float32)
    array = np.asarray(value)
    if feature.layout == "GRAYSCALE_FLOAT16":
        return array[np.newaxis, np.newaxis]
    if feature.kind == "image":
        return array[np.newaxis]
    return array.reshape(()) if feature.shape == () else array  # a number comes as an array of one element


def input_spec(feature: Any) -> TensorSpec:
    shape = () if None in feature.shape else tuple(feature.shape)  # no shape: the artifact itself says what it takes
    if feature.kind == "image":
        return TensorSpec(feature.name, pixels(shape), PICTURE)
    return TensorSpec(feature.name, shape, feature.dtype)


def output_spec(feature: Any, classes: int) -> TensorSpec:
    if feature.kind == "probabilities":
        return TensorSpec(feature.name, (1, classes), PROBABILITIES)
    shape = tuple(feature.shape or ())
    if feature.kind == "image" and feature.layout != "GRAYSCALE_FLOAT16":
        return TensorSpec(feature.name, pixels(shape), PICTURE)
    return TensorSpec(feature.name, shape, feature.dtype)


def pixels(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of the tensor (1, channels, H, W), the picture's shape: (H, W, 3), or (H, W) in grey."""
    if not shape:
        return ()
    _, channels, height, width = shape
    return (height, width, channels) if channels > 1 else (height, width)


RUNTIME = CoreML()
