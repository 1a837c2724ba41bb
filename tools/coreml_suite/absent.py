"""Stands in for packages that a test file imports though only some of its cases use them.

Without it, a missing package would keep every case of the file from running.
"""

from __future__ import annotations

import importlib.util
import sys
import unittest.mock
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from coreml_suite.outcomes import Excluded

NEEDS = "needs a package that is not installed here: {}"
# coremltools' tests import them unconditionally; peft, too, is used by a few cases only.
WANTED = ("torchvision", "peft")


class Absent(ModuleType):
    """A package that is not installed, or a part of it: a case that calls any part of it is excluded."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, loader=None)

    def __getattr__(self, name: str) -> Absent:
        if name.startswith("__"):
            raise AttributeError(name)
        return Absent(f"{self.__name__}.{name}")

    def __call__(self, *arguments: Any, **options: Any) -> None:
        raise Excluded(NEEDS.format(self.__name__.partition(".")[0]))


def stand_in() -> None:
    """To be called after coremltools, which asks what is installed, and before its tests are imported."""
    for name in WANTED:
        if name not in sys.modules and importlib.util.find_spec(name) is None:
            sys.modules[name] = Absent(name)
    if importlib.util.find_spec("mock") is None:
        sys.modules["mock"] = _mock()


def _mock() -> ModuleType:
    """The package is the standard library's module published by itself; ``parameterized`` asks for its version."""
    module = ModuleType("mock")
    module.__dict__.update({name: value for name, value in vars(unittest.mock).items() if not name.startswith("__")})
    module.__dict__["version_info"] = (5, 2, 0)
    return module


def leave() -> None:
    """To be called when the tests are imported: no library is to take a package for installed."""
    for name in WANTED:
        if isinstance(sys.modules.get(name), Absent):
            del sys.modules[name]
