"""What this machine can build and run, and how to get what is missing."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import psutil

import lvexport
from lvexport import machine
from lvexport.converters.registry import CONVERTERS
from lvexport.plan import installed, remedy
from lvexport.validation.runtimes.registry import RUNTIMES


@dataclass(frozen=True)
class TargetHealth:
    """``remedy`` is what to type to get what is missing; empty where nothing is."""

    target: str
    builds: bool
    libraries: dict[str, str | None]
    runs: bool
    runtime: str
    note: str
    remedy: str


@dataclass(frozen=True)
class Health:
    lvexport: str
    python: str
    torch: str | None
    machine: str
    memory_gib: float
    targets: tuple[TargetHealth, ...]


def examine() -> Health:
    """Look at what is installed, without loading any of it."""
    return Health(
        lvexport.__version__,
        ".".join(map(str, sys.version_info[:3])),
        installed("torch"),
        machine.describe(),
        round(psutil.virtual_memory().total / 2**30, 1),
        tuple(map(target_health, CONVERTERS)),
    )


def target_health(target: str) -> TargetHealth:
    libraries = {name: installed(name) for name in CONVERTERS[target].distributions}
    builds, available = all(libraries.values()), RUNTIMES[target].available()
    complete = builds and (available.here or not available.to_be_had)
    missing = [name for name, found in libraries.items() if found is None]
    needed = "" if complete else remedy(target, missing)
    return TargetHealth(target, builds, libraries, available.here, available.name, available.reason, needed)
