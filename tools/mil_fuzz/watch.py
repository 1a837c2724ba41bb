"""One attempt in a process of its own, and everything that must not happen in it.

The process is forked from one that has imported the interpreter and run every sound package, so that an attempt
has no reason to open a file that is not the package's, and what it takes in memory is what the package costs.
Time is counted as time on the processor, because others may share the machine; what sleeps is ended by the clock.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STATUS = "/proc/self/status"
CPU_SECONDS = 10
CLOCK_SECONDS = 120
ADDRESS_SPACE = 8 * 2**30  # bytes beyond what is mapped at the start: keeps the machine alive, judges nothing
MEBIBYTE = 2**20
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
SOUND = frozenset({"ran", "refused"})


@dataclass(frozen=True)
class Attempt:
    """How an attempt ended.

    Attributes:
        outcome: ``ran``, ``refused`` (an error of the interpreter's own), or a defect: ``exception``, ``crash``,
            ``slow``, ``memory``, ``outside``.
        detail: the error's text, the signal, the file that was opened.
        cpu_seconds: on the processor.
        bytes: by which the process grew at most.
    """

    outcome: str
    detail: str = ""
    cpu_seconds: float = 0.0
    bytes: int = 0

    @property
    def sound(self) -> bool:
        """Whether it is no defect."""
        return self.outcome in SOUND


def watched(
    attempt: Callable[[], object],
    refusals: type[Exception],
    inside: Path,
    most_bytes: int,
    cpu_seconds: int = CPU_SECONDS,
    clock_seconds: int = CLOCK_SECONDS,
) -> Attempt:
    """Runs ``attempt`` in a forked process.

    Args:
        attempt: what to do; it ends, or raises one of ``refusals``.
        refusals: the errors that it may raise.
        inside: the only folder whose files it may open.
        most_bytes: by which the process may grow.
        cpu_seconds: that it may take on the processor.
        clock_seconds: after which it is ended, whatever it does.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _begin(cpu_seconds)
        _report(attempt, refusals, inside, most_bytes, writer)
    os.close(writer)
    status = _ended(child, clock_seconds)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    if status is None or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
        return Attempt("slow", f"given up after {cpu_seconds} s on the processor or {clock_seconds} s")
    if os.WIFSIGNALED(status) or not answer:
        return Attempt("crash", f"status {status}")
    return Attempt(**json.loads(answer))


def _ended(child: int, clock_seconds: int) -> int | None:
    """The status of the process, or None if it had to be killed."""
    end = time.monotonic() + clock_seconds
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _report(
    attempt: Callable[[], object], refusals: type[Exception], inside: Path, most_bytes: int, writer: int
) -> None:
    """In the child: never returns."""
    try:
        found = _attempted(attempt, refusals, inside, most_bytes)
        os.write(writer, json.dumps(found.__dict__).encode()[: 2**16])
    finally:
        os._exit(0)


def _attempted(attempt: Callable[[], object], refusals: type[Exception], inside: Path, most_bytes: int) -> Attempt:
    opened = _opened_outside(inside)
    before, start = _resident("VmRSS"), time.process_time()
    outcome, detail = _tried(attempt, refusals)
    seconds, grown = time.process_time() - start, max(0, _resident("VmHWM") - before)
    if opened:
        outcome, detail = "outside", opened[0]
    elif grown > most_bytes:
        outcome, detail = "memory", f"{outcome}: {detail}"
    return Attempt(outcome, detail[:1000], seconds, grown)


def _tried(attempt: Callable[[], object], refusals: type[Exception]) -> tuple[str, str]:
    try:
        attempt()
    except refusals as error:
        return "refused", f"{type(error).__name__}: {error}"
    except BaseException as error:  # whatever else comes out of it is the finding
        # Without the lines themselves: to read the sources would be to open files.
        frames = [f"{frame.f_code.co_filename}:{line}" for frame, line in traceback.walk_tb(error.__traceback__)]
        return "exception", f"{error!r} at {', '.join(frames[-3:])}"
    return "ran", ""


def _opened_outside(inside: Path) -> list[str]:
    """Fills with the files outside of ``inside`` that the process opens from here on."""
    found: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            given = os.fsdecode(arguments[0])
            path = os.path.realpath(given)
            if given != STATUS and not Path(path).is_relative_to(inside):
                found.append(path)

    sys.addaudithook(hook)
    return found


def _begin(cpu_seconds: int) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 5))
    most = _resident("VmSize") + ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    # What the parent has given back to its heap would otherwise be used again without being counted (malloc_trim(3)).
    libc = ctypes.CDLL(None)
    libc.malloc_trim(0)
    # How much of what is freed stays with the process would otherwise follow from what the parent freed (mallopt(3)).
    libc.mallopt(M_MMAP_THRESHOLD, MEBIBYTE)
    libc.mallopt(M_TRIM_THRESHOLD, MEBIBYTE)
    # The highest mark so far is the parent's; it begins anew here (proc(5), clear_refs).
    descriptor = os.open("/proc/self/clear_refs", os.O_WRONLY)
    os.write(descriptor, b"5")
    os.close(descriptor)


def _resident(field: str) -> int:
    lines = Path(STATUS).read_text().splitlines()
    (found,) = (line for line in lines if line.startswith(f"{field}:"))
    return int(found.split()[1]) * 1024
