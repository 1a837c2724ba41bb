"""From a cold start to an artifact: our command beside the converters' own scripts, all in fresh processes.

Ours also runs what it made, over many pictures or, *alone*, over one; the scripts run nothing. Several scripts are
started one after the other. On all cores of the machine, but one thread a process.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MODEL, IMGSZ, WEIGHTS = "mobilevit_xxs", 64, "demo"
CASES = {"one": ("tflite",), "four": ("coreml", "tflite", "executorch", "onnx")}
REPETITIONS = 3
ROOT = Path(__file__).parent.parent.parent


def measure(say: Callable[[str, str], None]) -> dict[str, Any]:
    """Seconds of ours and of theirs for each case, in turn, and the ratios with their spread."""
    return {name: case(name, targets, say) for name, targets in CASES.items()} | {"cores": len(os.sched_getaffinity(0))}


def case(name: str, targets: tuple[str, ...], say: Callable[[str, str], None]) -> dict[str, Any]:
    """One case: ``alone`` judges over one picture, ``ours`` over as many as usual."""
    turns = []
    for i in range(REPETITIONS):
        say(f"cold start, {name}", f"{i + 1} of {REPETITIONS}")
        turns.append({"scripts": scripts(targets), "alone": ours(targets, "--samples", "1"), "ours": ours(targets)})
    found: dict[str, Any] = {key: statistics.median(turn[key] for turn in turns) for key in turns[0]}
    for key in ("alone", "ours"):
        ratios = [turn[key] / turn["scripts"] for turn in turns]
        found[f"{key}_ratio"] = {"ratio": statistics.median(ratios), "spread": [min(ratios), max(ratios)]}
    return found | {"targets": targets}


def ours(targets: tuple[str, ...], *options: str) -> float:
    """Seconds that one command takes for all targets."""
    with tempfile.TemporaryDirectory(prefix="lvexport-") as out:
        line = [MODEL, "--weights", WEIGHTS, "--to", ",".join(targets), "--output", out, "--quiet", *options]
        return seconds(["lvexport", *line])


def scripts(targets: tuple[str, ...]) -> float:
    """Seconds that the minimal scripts take, one after the other."""
    with tempfile.TemporaryDirectory(prefix="lvexport-") as out:
        suffix = {"coreml": ".mlpackage"}
        lines = [[t, "fp32", MODEL, str(IMGSZ), f"{out}/{t}{suffix.get(t, '')}", WEIGHTS] for t in targets]
        return sum(seconds(["tools.bench.minimal", *line]) for line in lines)


def seconds(line: list[str]) -> float:
    """Seconds that a module takes from start to end. Raises CalledProcessError where it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    start = time.monotonic()
    subprocess.run([sys.executable, "-m", *line], cwd=ROOT, env=environment, check=True, capture_output=True)
    return time.monotonic() - start
