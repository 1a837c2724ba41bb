"""Latency of artifacts on this machine: loaded side by side and timed in turn, so that a drift hits all alike."""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from lvexport import bundle, machine
from lvexport.errors import BundleError, CellError
from lvexport.jobs import BenchJob, Limits
from lvexport.processes import command, environment, kill, read_answer
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


class Contestant:
    """A loaded artifact that waits for orders."""

    def __init__(self, artifact: Path, threads: int, folder: Path) -> None:
        self.artifact = artifact
        self.target = target_of(artifact)
        self.folder = folder
        job = BenchJob(self.target, artifact, threads)
        line = command(folder, job)
        self.log = folder / "log.txt"
        self.process = subprocess.Popen(
            line,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log.open("wb"),
            env=environment(Limits(threads=threads)),
            start_new_session=True,
            text=True,
        )

    def wait_until_loaded(self) -> None:
        """Raise CellError where the artifact cannot be loaded or run."""
        assert self.process.stdout is not None
        for line in self.process.stdout:  # runtimes print notices of their own
            if line.strip() == "ready":
                return
        self.process.wait()
        read_answer(self.folder, self.process.returncode, self.log)
        raise CellError(f"{self.artifact} ended before it was ready")

    def round(self, runs: int) -> list[float]:
        """Time so many runs; milliseconds each."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{runs}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise CellError(f"{self.artifact} died while it was timed")
        times: list[float] = json.loads(line)
        return times


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
    with tempfile.TemporaryDirectory(prefix="lvexport-") as scratch, ExitStack() as stack:
        contestants = []
        for i, artifact in enumerate(found):
            contestant = Contestant(artifact.resolve(), threads, Path(scratch) / f"cell-{i:03}")
            stack.callback(kill, contestant.process)
            contestants.append(contestant)
        for contestant in contestants:
            contestant.wait_until_loaded()
        times = [[c.round(runs) for c in contestants] for _ in range(rounds)]
    timings = tuple(
        summarise(c, [turn[i] for turn in times], [turn[0] for turn in times]) for i, c in enumerate(contestants)
    )
    return Benchmark(machine.describe(), threads, rounds, timings)


def summarise(contestant: Contestant, rounds: list[list[float]], first: list[list[float]]) -> Timing:
    """The figures of one artifact. ``first`` are the rounds of the one it is compared with."""
    times = sorted(t for turn in rounds for t in turn)
    ratios = [statistics.median(turn) / statistics.median(base) for turn, base in zip(rounds, first, strict=True)]
    quarters = statistics.quantiles(times, n=4) if len(times) > 1 else [times[0]] * 3
    return Timing(
        contestant.artifact.name,
        contestant.target,
        RUNTIMES[contestant.target].available().name,
        len(times),
        statistics.median(times),
        times[0],
        times[-1],
        (quarters[0], quarters[2]),
        statistics.median(ratios),
        (min(ratios), max(ratios)),
    )
