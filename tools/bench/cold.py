"""From a cold start to an artifact: our command beside the converters' own scripts, all in fresh processes.

Ours also runs what it made, over many pictures or, *alone*, over one; the scripts run nothing. Several scripts are
started one after the other. On all cores of the machine, but one thread a process.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lvexport import machine

MODEL, IMGSZ, WEIGHTS = "mobilevit_xxs", 64, "demo"
CASES = {"one": ("tflite",), "four": ("coreml", "tflite", "executorch", "onnx")}
REPETITIONS = 3
ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Spent:
    """Seconds on the clock, and of processor time."""

    wall: float
    processor: float


def measure(say: Callable[[str, str], None]) -> dict[str, Any]:
    """Seconds of ours and of theirs for each case, in turn, and the ratios with their spread."""
    return {name: case(name, targets, say) for name, targets in CASES.items()} | {"machine": machine.describe()}


def case(name: str, targets: tuple[str, ...], say: Callable[[str, str], None]) -> dict[str, Any]:
    """One case: ``alone`` judges over one picture, ``ours`` over as many as usual."""
    turns = []
    for i in range(REPETITIONS):
        say(f"cold start, {name}", f"{i + 1} of {REPETITIONS}")
        turns.append({"scripts": scripts(targets), "alone": ours(targets, "--samples", "1"), "ours": ours(targets)})
    found: dict[str, Any] = {key: middle([turn[key] for turn in turns]) for key in turns[0]}
    for key in ("alone", "ours"):
        ratios = [turn[key].wall / turn["scripts"].wall for turn in turns]
        found[f"{key}_ratio"] = {"ratio": statistics.median(ratios), "spread": [min(ratios), max(ratios)]}
    return found | {"targets": targets}


def middle(spent: list[Spent]) -> dict[str, float]:
    """Medians of both."""
    return {
        "wall": statistics.median(s.wall for s in spent),
        "processor": statistics.median(s.processor for s in spent),
    }


def ours(targets: tuple[str, ...], *options: str) -> Spent:
    """What one command takes for all targets."""
    with tempfile.TemporaryDirectory(prefix="lvexport-") as out:
        line = [MODEL, "--weights", WEIGHTS, "--to", ",".join(targets), "--output", out, "--quiet", *options]
        return spend(["lvexport", *line])


def scripts(targets: tuple[str, ...]) -> Spent:
    """What the minimal scripts take, one after the other."""
    with tempfile.TemporaryDirectory(prefix="lvexport-") as out:
        suffix = {"coreml": ".mlpackage"}
        lines = [[t, "fp32", MODEL, str(IMGSZ), f"{out}/{t}{suffix.get(t, '')}", WEIGHTS] for t in targets]
        spent = [spend(["tools.bench.minimal", *line]) for line in lines]
        return Spent(sum(s.wall for s in spent), sum(s.processor for s in spent))


def spend(line: list[str]) -> Spent:
    """What a module takes from start to end, with all that it starts. Raises CalledProcessError where it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    start, before = time.monotonic(), processor()
    subprocess.run([sys.executable, "-m", *line], cwd=ROOT, env=environment, check=True, capture_output=True)
    return Spent(time.monotonic() - start, processor() - before)


def processor() -> float:
    """Seconds of processor time of all processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
