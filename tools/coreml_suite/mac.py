"""Answers to the tests' questions about the machine: a current Mac.

The tests skip what an older macOS or an Intel Mac could not do. None of these answers changes what a test
compares, only whether it does.
"""

from __future__ import annotations

import platform
import sys
from types import ModuleType
from typing import Any

MACOS = (26, 0)
MACHINE = "arm64"


def pretend() -> None:
    """To be called before coremltools' tests are imported. A Mac answers for itself."""
    if sys.platform == "darwin":
        return
    import coremltools
    from coremltools.models import utils

    coremltools._deps._IS_MACOS = True
    replace(utils._is_macos, lambda: True, "_is_macos")
    replace(utils._macos_version, lambda: MACOS, "_macos_version")
    platform.machine = lambda: MACHINE


def pretend_to_tests() -> None:
    """To be called when coremltools' tests are imported: some of them ask Python itself which system it runs on."""
    if sys.platform == "darwin":
        return
    for module in [module for key, module in sys.modules.items() if key.startswith("coremltools.test.")]:
        if getattr(module, "sys", None) is sys:
            module.__dict__["sys"] = Darwin("sys")
        if "_macos_version" in vars(module):
            module.__dict__["_macos_version"] = lambda: MACOS


class Darwin(ModuleType):
    """``sys``, but for the name of the platform."""

    platform = "darwin"

    def __getattr__(self, name: str) -> Any:
        return getattr(sys, name)


def replace(found: object, by: object, name: str) -> None:
    """In every module of coremltools that took ``found`` by its name."""
    for module in [module for key, module in sys.modules.items() if key.startswith("coremltools")]:
        if getattr(module, name, None) is found:
            setattr(module, name, by)
