"""What coremltools takes for its extension module ``libcoremlpython``, with the interpreter in the place of Core ML.

The classes and their methods are those that coremltools calls (``models/model.py``, ``models/_compiled_model.py``,
``models/utils.py``); what they take and return follows Apple's ``coremlpython/CoreMLPython.mm``.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from coreml_suite.outcomes import Excluded
from lvexport.validation import mil
from lvexport.validation.mil.protos import parse_model

NAME = "coremltools.libcoremlpython"
SPECIFICATION_VERSION = 10  # of iOS 26 and macOS 26 (``_SPECIFICATION_VERSION_IOS_26`` in coremltools)
OTHER_KIND = "a model of kind {}: the interpreter runs ML programs and refuses the older kinds by name"
FAILED = "Unable to compute the prediction using ML Program. "  # Core ML's words, which some tests look for
NO_PLANS = "Core ML's devices, and how it would divide a model among them (MLComputePlan)"
NO_ASSETS = "models compiled in memory (MLModelAsset), which Core ML alone reads"
COMPILED = "package.mlpackage"  # what a "compiled" folder of ours holds


class State:
    """The buffers of a stateful model, as ``MLState`` reads and writes them."""

    def __init__(self, state: Any) -> None:
        self.state = state

    def read_state(self, name: str) -> Any:
        return _at_boundary(lambda: self.state.read_state(name))

    def write_state(self, name: str, value: Any) -> None:
        _at_boundary(lambda: self.state.write_state(name, value))


class Proxy:
    """One loaded model: ``_MLModelProxy``.

    Attributes:
        predictions: how many were asked for since the count was last set to 0, over all models.
        refused: how many models or predictions the interpreter answered with an error since then.
    """

    predictions = 0
    refused = 0

    def __init__(
        self, path: str, compute_units: str = "", function: str = "", hints: object = None, asset: object = None
    ) -> None:
        if asset is not None:
            raise Excluded(NO_ASSETS)
        start = time.monotonic_ns()
        self.path = Path(path)
        if self.path.suffix == ".mlmodelc":
            self.path = self.path / COMPILED
        self.kind = _kind(self.path)
        self.model = _at_boundary(lambda: _load(self.path, function)) if self.kind == "mlProgram" else None
        self.load_duration = time.monotonic_ns() - start
        self.last_duration: int | None = None

    def predict(self, data: Mapping[str, Any], state: State | None = None) -> dict[str, Any]:
        if self.model is None:
            raise Excluded(OTHER_KIND.format(self.kind))
        Proxy.predictions += 1
        start = time.monotonic_ns()
        results = _at_boundary(lambda: _predict(self.model, data, state), FAILED)
        self.last_duration = time.monotonic_ns() - start
        return dict(results)

    def batchPredict(self, data: list[Mapping[str, Any]]) -> list[dict[str, Any]]:  # noqa: N802 - Apple's name
        return [self.predict(one) for one in data]

    def newState(self) -> State:  # noqa: N802 - Apple's name
        if self.model is None:
            raise Excluded(OTHER_KIND.format(self.kind))
        return State(_at_boundary(self.model.make_state))

    def get_load_duration_in_nano_seconds(self) -> int:
        return self.load_duration

    def get_last_predict_duration_in_nano_seconds(self) -> int | None:
        return self.last_duration

    def get_compiled_model_path(self) -> str:
        if self.model is None:
            raise Excluded(OTHER_KIND.format(self.kind))
        return self.compileModel(str(self.path))

    @staticmethod
    def compileModel(path: str) -> str:  # noqa: N802 - Apple's name
        """Nothing is compiled: the folder holds the package itself."""
        folder = Path(tempfile.mkdtemp()) / f"{Path(path).stem}.mlmodelc"
        folder.mkdir()
        copy = shutil.copytree if Path(path).is_dir() else shutil.copy
        copy(path, folder / COMPILED)
        return str(folder)

    @staticmethod
    def maximum_supported_specification_version() -> int:
        return SPECIFICATION_VERSION

    @staticmethod
    def auto_set_specification_version(specification: Any) -> Any:
        return specification

    @staticmethod
    def create_model_asset_from_path(path: str) -> None:
        raise Excluded(NO_ASSETS)

    @staticmethod
    def create_model_asset_from_memory(specification: bytes, blobs: Mapping[str, bytes]) -> None:
        raise Excluded(NO_ASSETS)

    @staticmethod
    def get_model_structure(path: str) -> None:
        raise Excluded(NO_PLANS)

    @staticmethod
    def get_compute_plan(path: str, compute_units: str) -> None:
        raise Excluded(NO_PLANS)

    @staticmethod
    def get_all_compute_devices() -> None:
        raise Excluded(NO_PLANS)

    @staticmethod
    def get_available_compute_devices() -> None:
        raise Excluded(NO_PLANS)


def install(proxy: type[Any] = Proxy) -> None:
    """Puts the module where coremltools will look for it, unless it is there already.

    Must come before coremltools is imported.
    """
    if NAME in sys.modules:
        return
    if "coremltools" in sys.modules:
        raise RuntimeError("coremltools was imported before its extension module was replaced")
    module = ModuleType(NAME)
    module.__spec__ = importlib.util.spec_from_loader(NAME, loader=None)
    module.__dict__["_MLModelProxy"] = proxy
    module.__dict__["_MLModelAssetProxy"] = type("_MLModelAssetProxy", (), {})
    sys.modules[NAME] = module


def _kind(path: Path) -> str:
    """The kind of model in a package or a ``.mlmodel`` file: the name of the field that holds it."""
    if path.suffix == ".mlpackage" and path.is_dir():
        specification = next(path.glob("Data/**/*.mlmodel"), None)
        if specification is None:
            raise RuntimeError(f"{path} holds no model")
        path = specification
    return str(_at_boundary(lambda: parse_model(path)).WhichOneof("Type"))


def _load(path: Path, function: str) -> Any:
    return mil.load(path, function_name=function or None)


def _predict(model: Any, data: Mapping[str, Any], state: State | None) -> Any:
    return model.predict(data, state=state.state) if state is not None else model.predict(data)


def _at_boundary(act: Callable[[], Any], failed: str = "") -> Any:
    """Runs ``act``; what fails inside Core ML is a RuntimeError in Python."""
    try:
        return act()
    except mil.MilError as error:
        Proxy.refused += 1
        raise RuntimeError(f"{failed}{type(error).__name__}: {error}") from error
