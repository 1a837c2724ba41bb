"""The machine that something was measured on, in a few words."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def processor() -> str:
    """The processor's own name, or its architecture where the system does not tell."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def describe() -> str:
    """Such as ``Linux x86_64, AMD EPYC, 2 cores``."""
    return f"{platform.system()} {platform.machine()}, {processor()}, {os.cpu_count()} cores"
