"""Answers to the tests' questions about the machine: a current Mac.

The tests skip what an older macOS or an Intel Mac could not do. None of these answers changes what a test
compares, only whether it does.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from typing import Any

MACOS = (26, 0)
MACHINE = "arm64"


def pretend() -> None:
    """To be called after coremltools is imported and before its tests are."""
    import coremltools
    from coremltools.models import utils

    coremltools._deps._IS_MACOS = True
    _replace(utils._is_macos, lambda: True)
    _replace(utils._macos_version, lambda: MACOS)
    platform.machine = lambda: MACHINE


def _replace(function: Callable[..., Any], answer: Callable[..., Any]) -> None:
    """In every module of coremltools that took the function by its name."""
    name = function.__name__
    for module in [module for key, module in sys.modules.items() if key.startswith("coremltools")]:
        if getattr(module, name, None) is function:
            setattr(module, name, answer)
