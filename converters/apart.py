"""Distributions that cannot share an environment with others: each lies in a folder of its own within it.

``tosa-tools`` asks for older versions of numpy, flatbuffers and ml-dtypes than all else here, runs with the ones that
are here, and has modules with names such as ``tests`` and ``lib``. Run as a program, this installs them, as
``make install`` does.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

PINS = {"tosa-tools": "2026.5.0"}  # the version that ExecuTorch 1.5.1 asks for


def folder(distribution: str) -> Path:
    return Path(sys.prefix) / "apart" / distribution


def version(distribution: str) -> str | None:
    """The version that lies in its folder, or None."""
    if distribution not in PINS:
        return None
    found = distributions(name=distribution, path=[str(folder(distribution))])
    return next((d.version for d in found), None)


def remedy(distribution: str) -> str:
    """What to type to get it."""
    return f"pip install --no-deps --target '{folder(distribution)}' {distribution}=={PINS[distribution]}"


def install() -> None:
    """Put all of them into their folders."""
    for name, pin in PINS.items():
        line = ("-m", "pip", "install", "--quiet", "--upgrade", "--no-deps", "--target", str(folder(name)))
        subprocess.run([sys.executable, *line, f"{name}=={pin}"], check=True)


def reach(distribution: str) -> None:
    """Let this process import from it, behind everything else."""
    place = str(folder(distribution))
    if place not in sys.path:
        sys.path.append(place)


if __name__ == "__main__":
    install()
