"""Starting cells, watching over their time and memory, and reading their answers."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from pydantic import ValidationError

from lvexport import forked
from lvexport.converters.registry import CONVERTERS
from lvexport.errors import CellError, NotRunError, UsageError
from lvexport.forked import Forked, ForkServer
from lvexport.jobs import ANSWER, JOB, Answer, BenchJob, ConvertJob, DescribeJob, Job, Limits, ProfileJob, RunJob

POLL_SECONDS = 0.1
FAMILY_SECONDS = 1.0  # between two looks for processes that a cell started: each reads all of the machine's
MEMORY_SHARE = 0.8  # of the machine's, where no limit was given
LOG = "log.txt"  # what a cell printed, in its folder
LOG_TAIL = 20_000  # bytes of a failed cell's log that are kept
CLEAN = (RunJob, DescribeJob, BenchJob, ProfileJob)  # where an artifact's runtime is, nothing else has been imported


class Stop:
    """Set once the whole run is being given up; every waiting cell is then killed."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()


@dataclass(frozen=True)
class Started:
    """A cell's process, which waits for its job where that is not written yet."""

    folder: Path
    process: subprocess.Popen[bytes] | Forked

    @property
    def log(self) -> Path:
        return self.folder / LOG


@dataclass
class Workshop:
    """Starts cells, each in a numbered folder of its own.

    ``ahead``: by target, processes that import its converter while there is nothing to convert yet. ``server``: forks
    cells, so that what they need is imported once.
    """

    folder: Path
    limits: Limits
    stop: Stop = field(default_factory=Stop)
    numbers: Iterator[int] = field(default_factory=itertools.count)
    ahead: dict[str, Started] = field(default_factory=dict)
    server: ForkServer | None = None

    def do(self, job: Job) -> Any:
        """Perform a job and return its result, as plain JSON."""
        waiting = self.ahead.pop(job.target, None) if isinstance(job, ConvertJob) else None
        return run_job(job, waiting or self._started(job), self.limits, self.stop)

    def prepare(self, target: str, modules: Sequence[str]) -> None:
        """Start the process of the next conversion for a target, which imports these modules meanwhile."""
        self.ahead[target] = self._forked(modules)

    def open(self) -> None:
        """Let cells be forked from now on, until this is closed."""
        if forked.HERE and self.server is None:
            self.server = ForkServer(environment(self.limits))

    def close(self) -> None:
        """End the processes that have been given nothing to do."""
        while self.ahead:
            kill(self.ahead.popitem()[1].process)
        if self.server is not None:
            self.server.close(at_once=self.stop.is_set())
            self.server = None

    def _started(self, job: Job) -> Started:
        if isinstance(job, CLEAN):
            return start(self._next_folder(), self.limits)
        return self._forked(CONVERTERS[job.target].modules if isinstance(job, ConvertJob) else ())

    def _forked(self, modules: Sequence[str]) -> Started:
        """A process that has these modules: a copy of one that has imported them, or a new one."""
        folder = self._next_folder()
        if self.server is not None:
            folder.mkdir(parents=True)
            with suppress(OSError):
                return Started(folder, self.server.start(folder / "job.json", folder / LOG, modules))
        return start(folder, self.limits, modules)

    def _next_folder(self) -> Path:
        return self.folder / f"cell-{next(self.numbers):03}"


@contextmanager
def interruptible(shop: Workshop) -> Iterator[None]:
    """Fork cells inside; end all that run when this block is left early, and those that wait when it is left at all."""
    shop.open()
    try:
        yield
    except BaseException:
        shop.stop.set()
        raise
    finally:
        shop.close()


def command(folder: Path, modules: Sequence[str] = ()) -> list[str]:
    """Make the folder; the command line that performs the job which is or will be written there."""
    folder.mkdir(parents=True, exist_ok=True)
    return [sys.executable, "-m", "lvexport.cell", str(folder / "job.json"), *modules]


def write_job(folder: Path, job: Job) -> None:
    """Write a job in one step, for its process may be waiting for it already."""
    part = folder / "job.part"
    part.write_bytes(JOB.dump_json(job))
    part.replace(folder / "job.json")


# How often a thread of GNU OpenMP looks for work before it sleeps, where the environment does not say. By default that
# is so often that two runs at once, each on all cores, keep each other waiting: an export of 14 s took over 150, now
# 35. A run that is alone takes as long as before.
SPINS = "10000"


def environment(limits: Limits) -> dict[str, str]:
    """Libraries read their number of threads and their verbosity from here."""
    threads = str(limits.threads)
    return {
        "GOMP_SPINCOUNT": SPINS,
        **os.environ,
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONUNBUFFERED": "1",
        "PYTHONIOENCODING": "utf-8",
        **limits.environment,
    }


def start(folder: Path, limits: Limits, modules: Sequence[str] = ()) -> Started:
    """Start a cell's process, which first imports the modules and then waits for its job."""
    line = command(folder, modules)
    with (folder / LOG).open("wb") as output:
        process = subprocess.Popen(
            line,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(limits),
            start_new_session=True,  # Ctrl-C in the terminal reaches only us; we then end the cells in order
        )
    return Started(folder, process)


def run_job(job: Job, started: Started, limits: Limits, stop: Stop) -> Any:
    """Perform a job in a process of its own and return its result.

    Raises CellError where the process failed, crashed or overstepped a limit, and UsageError where the request was
    at fault.
    """
    try:
        write_job(started.folder, job)
        watch(started.process, limits, stop)
    except CellError as error:
        raise CellError(str(error), tail(started.log)) from None
    finally:
        kill(started.process)
    return read_answer(started.folder, started.process.returncode or 0, started.log)


def watch(process: subprocess.Popen[bytes] | Forked, limits: Limits, stop: Stop) -> None:
    """Wait for the end of a process. Raises CellError where it oversteps a limit."""
    memory = limits.memory or int(psutil.virtual_memory().total * MEMORY_SHARE)
    deadline = time.monotonic() + limits.seconds
    family: Family | None = None
    while process.poll() is None:
        if stop.is_set():
            raise CellError("it was stopped")
        if time.monotonic() > deadline:
            raise CellError(f"it took more than {limits.seconds:.0f} s and was ended; --timeout gives it longer")
        if family is None and process.pid is not None:
            family = Family(process.pid)
        if family is not None and family.resident() > memory:
            raise CellError(
                f"it took more than {memory / 2**30:.1f} GiB of memory and was ended; --memory gives it more"
            )
        with suppress(subprocess.TimeoutExpired):
            process.wait(POLL_SECONDS)


class Family:
    """A process and those that it started."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._seen = -FAMILY_SECONDS  # when they were last looked for
        self._members: list[psutil.Process] = []

    def resident(self) -> int:
        """Bytes of memory that they hold."""
        now = time.monotonic()
        if now - self._seen >= FAMILY_SECONDS:
            self._seen, self._members = now, family_of(self._pid)
        return sum(map(held, self._members))


def family_of(pid: int) -> list[psutil.Process]:
    """A process and its children; none where it has ended."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def held(process: psutil.Process) -> int:
    """Bytes of memory that a process holds, 0 where it has ended."""
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def kill(process: subprocess.Popen[Any] | Forked) -> None:
    """End a process and all that it started."""
    if isinstance(process, Forked):
        process.kill()
        return
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.stdin is not None:
        process.stdin.close()


def read_answer(folder: Path, returncode: int, log: Path) -> Any:
    """The result that a finished cell left. Raises what its failure stands for."""
    path = folder / "answer.json"
    if not path.exists():
        how = f"signal {signal.Signals(-returncode).name}" if returncode < 0 else f"exit code {returncode}"
        raise CellError(f"its process died ({how})", tail(log))
    try:
        answer: Answer = ANSWER.validate_json(path.read_bytes())
    except ValidationError as error:
        raise CellError("its answer cannot be read", tail(log)) from error
    if answer.failure is not None:
        if answer.failure.usage:
            raise UsageError(answer.failure.message)
        kind = NotRunError if answer.failure.sound else CellError
        raise kind(answer.failure.message, tail(log) + answer.failure.traceback)
    return answer.result


def tail(log: Path) -> str:
    """The end of what a cell printed."""
    return log.read_bytes()[-LOG_TAIL:].decode(errors="replace")
