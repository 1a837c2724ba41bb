"""Latency of artifacts on this machine: loaded side by side and timed in turn, so that a drift hits all alike."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

from lvexport import bundle, machine
from lvexport.errors import BundleError, CellError
from lvexport.timing import times
from lvexport.validation.runtimes.registry import RUNTIMES
from lvexport.verification import is_artifact, target_of


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one inference. ``ratio``: this artifact's median over the first one's, round by round."""

    artifact: str
    target: str
    runtime: str
    runs: int
    median: float
    fastest: float
    slowest: float
    quartiles: tuple[float, float]
    ratio: float
    ratio_spread: tuple[float, float]


@dataclass(frozen=True)
class Benchmark:
    machine: str
    threads: int
    rounds: int
    timings: tuple[Timing, ...]


def artifacts_in(path: Path) -> list[Path]:
    """The artifacts that a path on the command line stands for."""
    if not path.exists():
        raise BundleError(f"There is nothing at {path}. Name a bundle's folder or an artifact.")
    if path.is_dir() and not is_artifact(path):
        return [path / a.path for a in bundle.read(path).manifest.artifacts if a.path]
    target_of(path)
    return [path]


def bench(paths: list[Path], threads: int = 1, rounds: int = 7, runs: int = 20) -> Benchmark:
    """Time all artifacts, ``runs`` inferences at a time, in turn, ``rounds`` times over."""
    found = [artifact for path in paths for artifact in artifacts_in(path)]
    for target in {target_of(artifact) for artifact in found}:
        available = RUNTIMES[target].available()
        if not available.here:
            raise CellError(available.reason)
    contestants = [(target_of(artifact), artifact) for artifact in found]
    measured = times(contestants, threads, rounds, runs)
    timings = tuple(
        summarise(c, [turn[i] for turn in measured], [turn[0] for turn in measured]) for i, c in enumerate(contestants)
    )
    return Benchmark(machine.describe(), threads, rounds, timings)


def summarise(contestant: tuple[str, Path], rounds: list[list[float]], first: list[list[float]]) -> Timing:
    """The figures of one artifact. ``first`` are the rounds of the one it is compared with."""
    target, artifact = contestant
    sorted_times = sorted(t for turn in rounds for t in turn)
    ratios = [statistics.median(turn) / statistics.median(base) for turn, base in zip(rounds, first, strict=True)]
    quarters = statistics.quantiles(sorted_times, n=4) if len(sorted_times) > 1 else [sorted_times[0]] * 3
    return Timing(
        artifact.name,
        target,
        RUNTIMES[target].available().name,
        len(sorted_times),
        statistics.median(sorted_times),
        sorted_times[0],
        sorted_times[-1],
        (quarters[0], quarters[2]),
        statistics.median(ratios),
        (min(ratios), max(ratios)),
    )
