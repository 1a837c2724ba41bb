"""Processes that a server forks, as those see them who wait for them."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

HERE = sys.platform == "linux"  # elsewhere libraries do not bear to be forked
# OpenBLAS starts its threads when NumPy is imported, and what has threads is not forked. PyTorch starts its own when it
# first needs them.
UNTHREADED = {"OPENBLAS_NUM_THREADS": "1"}
CLOSING_SECONDS = 2.0  # for a server that may be importing something


class Forked:
    """What ``subprocess.Popen`` is for a process of one's own. ``pid`` is None until the server has forked it."""

    def __init__(self, status: int, stdin: int) -> None:
        self.pid: int | None = None
        self.returncode: int | None = None
        self.stdin = os.fdopen(stdin, "wb")
        self._status: int | None = status
        self._told = b""

    def poll(self) -> int | None:
        """The exit code; None as long as it runs."""
        self._listen(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once there is one. Raises subprocess.TimeoutExpired after so many seconds."""
        end = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            left = None if end is None else max(0.0, end - time.monotonic())
            if not self._listen(left):
                assert timeout is not None
                raise subprocess.TimeoutExpired("cell", timeout)
        return self.returncode

    def kill(self) -> None:
        """End it and all that it started; where there is no process yet, it ends as soon as it is there."""
        self.stdin.close()
        self._listen(0)
        if self.returncode is not None:
            return
        if self.pid is None:
            self._end(-signal.SIGKILL)
            return
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)  # it may not have a group of its own yet
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()

    def _listen(self, seconds: float | None) -> bool:
        """Hear what the server tells within so many seconds; whether it told anything."""
        if self._status is None:
            return False
        waiting = select.poll()
        waiting.register(self._status, select.POLLIN)
        if not waiting.poll(None if seconds is None else 1000 * seconds):
            return False
        told = os.read(self._status, 64)
        self._told += told
        numbers = [int(line) for line in self._told.split(b"\n")[:-1]]
        self.pid, code = (*numbers, None, None)[:2]
        if not told and code is None:  # the server is gone
            code = 1
            if self.pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)
        if code is not None:
            self._end(code)
        return True

    def _end(self, code: int) -> None:
        assert self._status is not None
        os.close(self._status)
        self.returncode, self._status = code, None


class ForkServer:
    """A process of ours that forks others. It is started when it is first asked for one."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._lock = threading.Lock()
        self._requests: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, job: Path, log: Path, modules: Sequence[str]) -> Forked:
        """Start a cell that needs these modules. Raises OSError where the server is gone."""
        stdin, ours = os.pipe()
        status, told = os.pipe()
        forked = Forked(status, ours)
        with log.open("wb") as output:
            try:
                with self._lock:
                    packet = json.dumps([str(job), *modules]).encode()
                    socket.send_fds(self._connected(), [packet], [stdin, output.fileno(), told])
            except OSError:
                forked.stdin.close()
                os.close(status)
                raise
            finally:
                os.close(stdin)
                os.close(told)
        return forked

    def _connected(self) -> socket.socket:
        if self._requests is None:
            self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "lvexport.forkserver"],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env={**self._environment, **UNTHREADED},
                    start_new_session=True,  # Ctrl-C in the terminal reaches only us
                )
        return self._requests

    def close(self, at_once: bool = False) -> None:
        """End the server and its branches; cells that still run end when their standard input closes.

        Unless that is to be at once they end by themselves, so that their processor time counts as ours.
        """
        with self._lock:
            if self._requests is not None:
                self._requests.close()
            if self._process is not None:
                try:
                    self._process.wait(0 if at_once else CLOSING_SECONDS)
                except subprocess.TimeoutExpired:
                    os.killpg(self._process.pid, signal.SIGKILL)  # its branches are of its group
                    self._process.wait()
            self._process = self._requests = None
