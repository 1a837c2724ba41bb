"""A pytest plugin, loaded before ``plugin``: every prediction is made twice, and the differences are written down.

The reference is Core ML itself, where there is a Mac, and its results are what the tests get. Elsewhere the
interpreter stands on both sides, which only shows that this code works.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from coreml_suite import binding, mac
from coreml_suite.differences import Difference, difference
from lvexport.validation.mil.protos import parse_model


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("conformance").addoption("--differences", type=Path, help="file that differences are added to")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    Both.path = early_config.known_args_namespace.differences
    if sys.platform == "darwin":
        _take_the_place_of_core_ml()
    else:
        binding.install(Both)


class Forwarding(type):
    """The class of a class whose other methods are its reference's."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(cls.__dict__["reference"], name)


class Both(metaclass=Forwarding):
    """Core ML and the interpreter on one model: ``_MLModelProxy``.

    Attributes:
        reference, tested: classes like ``binding.Proxy``.
        path: where differences go.
    """

    reference: type[Any] = binding.Proxy
    tested: type[Any] = binding.Proxy
    path: Path

    def __init__(self, path: str, *arguments: Any) -> None:
        self.ops = tuple(sorted(_op_types(Path(path))))
        self.first = self.reference(path, *arguments)
        # Without operations it is a model of another kind, or one that is compiled: nothing for the interpreter.
        self.second: Any = self._tried(lambda: self.tested(path, *arguments)) if self.ops else None

    def predict(self, data: Mapping[str, Any], state: BothStates | None = None) -> Any:
        first, second = (None, None) if state is None else (state.first, state.second)
        wanted = self.first.predict(dict(data), first)
        found = self._tried(lambda: self.second.predict(dict(data), second)) if self.second is not None else None
        if found is not None:
            for name, value in wanted.items():
                self._write(difference(self.ops, value, found.get(name)))
        return wanted

    def batchPredict(self, data: list[Mapping[str, Any]]) -> list[Any]:  # noqa: N802 - Apple's name
        return [self.predict(one) for one in data]

    def newState(self) -> BothStates:  # noqa: N802 - Apple's name
        second = self._tried(self.second.newState) if self.second is not None else None
        return BothStates(self.first.newState(), second)

    def __getattr__(self, name: str) -> Any:
        """What has to do with no prediction is the reference's."""
        return getattr(self.__dict__["first"], name)

    def _tried(self, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except Exception as error:  # whatever it is, the table is to say so and the test to go on with Core ML
            self._write(Difference(self.ops, error=f"{type(error).__name__}: {error}"[:300]))
            return None

    def _write(self, found: Difference) -> None:
        case = os.environ.get("PYTEST_CURRENT_TEST", "").partition(" (")[0]
        with self.path.open("a") as file:
            file.write(json.dumps({**asdict(found), "case": case}) + "\n")


class BothStates:
    """The state of one model in both runtimes; what is read is the reference's."""

    def __init__(self, first: Any, second: Any) -> None:
        self.first, self.second = first, second

    def read_state(self, name: str) -> Any:
        return self.first.read_state(name)

    def write_state(self, name: str, value: Any) -> None:
        self.first.write_state(name, value)
        if self.second is not None:
            self.second.write_state(name, value)


def _take_the_place_of_core_ml() -> None:
    """Steps between coremltools and its own extension module."""
    import coremltools
    from coremltools import libcoremlpython

    assert coremltools  # its other modules have taken the class by its name
    Both.reference = libcoremlpython._MLModelProxy
    mac.replace(Both.reference, Both, "_MLModelProxy")


def _op_types(package: Path) -> set[str]:
    """Types of the operations in a package's programs, without those that only hand values over."""
    files = list(package.glob("Data/**/*.mlmodel"))
    if not files:
        return set()
    functions = parse_model(files[0]).mlProgram.functions.values()
    blocks = [block for function in functions for block in function.block_specializations.values()]
    counts: Counter[str] = Counter()
    while blocks:
        for operation in blocks.pop().operations:
            counts[operation.type] += 1
            blocks.extend(operation.blocks)
    return set(counts) - {"const", "cast", "identity"} or set(counts)
