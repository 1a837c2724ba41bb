"""Loaded artifacts that are timed in turn, so that a drift of the machine hits all alike."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from lvexport.errors import CellError
from lvexport.jobs import BenchJob, Limits
from lvexport.processes import LOG, command, environment, kill, read_answer, write_job


class Contestant:
    """A loaded artifact that waits for orders."""

    def __init__(self, target: str, artifact: Path, threads: int, folder: Path) -> None:
        self.artifact = artifact
        self.folder = folder
        job = BenchJob(target, artifact, threads)
        line = command(folder)
        write_job(folder, job)
        self.log = folder / LOG
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


def times(artifacts: Sequence[tuple[str, Path]], threads: int, rounds: int, runs: int) -> list[list[list[float]]]:
    """Milliseconds of each run: round by round, for each artifact, (target, path), ``runs`` at a time.

    Raises CellError where one of them cannot be loaded or run.
    """
    with tempfile.TemporaryDirectory(prefix="lvexport-") as scratch, ExitStack() as stack:
        contestants = []
        for i, (target, path) in enumerate(artifacts):
            contestant = Contestant(target, path.resolve(), threads, Path(scratch) / f"cell-{i:03}")
            stack.callback(kill, contestant.process)
            contestants.append(contestant)
        for contestant in contestants:
            contestant.wait_until_loaded()
        return [[c.round(runs) for c in contestants] for _ in range(rounds)]
