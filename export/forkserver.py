"""Imports libraries once and forks a process for each cell: ``python -m lvexport.forkserver``, where there is Linux.

PyTorch takes over a second to import and a converter up to three more, and a run may have dozens of cells. The server
has imported PyTorch; for each converter it forks a branch, a server of its own, which imports that besides.

Only a process without threads is forked, for what holds a lock in a thread would hold it in the copy for ever. Where a
library has started one, a new process is started in place of the copy.

Each request comes through the socket that is standard input, as one packet: JSON of the job's path and the modules that
it needs, and three files, which are the cell's standard input, its output, and the pipe into which the server writes
the cell's process number and, once it has ended, its exit code, a line each. The server ends when the socket closes.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import NoReturn

BASE = ("torch", "lvexport.cell")
# That are kept, each of which holds up to 0.3 GiB that it does not share: no more conversions go on at once.
BRANCHES = max(2, os.cpu_count() or 1)
PACKET = 1 << 16


class Server:
    """Serves requests for cells that need ``modules``, and hands on those for cells that need others besides."""

    def __init__(self, requests: socket.socket, modules: tuple[str, ...] = ()) -> None:
        self._requests = requests
        self._modules = modules
        self._ended: dict[int, int | None] = {}  # process → where its exit code is written; None: a branch
        self._branches: dict[tuple[str, ...], socket.socket] = {}  # the one used last comes last
        self._woken, self._wakes = os.pipe()  # by the end of a process

    def serve(self) -> None:
        """Serve until the socket closes and all that was forked has ended."""
        for module in self._modules or BASE:
            with suppress(Exception):  # the cell's own import of it will say what is wrong
                import_module(module)
        gc.freeze()  # garbage is not looked for in what all copies share
        os.set_blocking(self._wakes, False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(self._wakes)
        serving = True
        while serving or self._ended:
            heard = [self._woken, *([self._requests.fileno()] if serving else [])]
            ready, _, _ = select.select(heard, [], [])
            if self._woken in ready:
                os.read(self._woken, PACKET)
                self._reap()
            if self._requests.fileno() in ready:
                serving = self._take()

    def _take(self) -> bool:
        """Serve one request; whether there may be more."""
        packet, files, _, _ = socket.recv_fds(self._requests, PACKET, 3)
        if not packet:
            while self._branches:
                self._branches.popitem()[1].close()
            return False
        job, *modules = json.loads(packet)
        if modules and tuple(modules) != self._modules and is_single_threaded():
            self._hand_on(tuple(modules), packet, files)
        else:
            self._launch([job, *modules], files)
        for file in files:
            os.close(file)
        return True

    def _hand_on(self, modules: tuple[str, ...], packet: bytes, files: Sequence[int]) -> None:
        branch = self._branches.pop(modules, None) or self._branch(modules, files)
        self._branches[modules] = branch
        if len(self._branches) > BRANCHES:
            self._branches.pop(next(iter(self._branches))).close()
        with suppress(OSError):  # it died, and the cell counts as one that did: nobody holds its pipe any more
            socket.send_fds(branch, [packet], files)

    def _branch(self, modules: tuple[str, ...], files: Sequence[int]) -> socket.socket:
        """Fork a server for cells that need these modules; where it takes requests."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        process = os.fork()
        if process == 0:
            ours.close()
            self._forget(files)
            leave_after(Server(theirs, modules).serve)
        theirs.close()
        self._ended[process] = None
        return ours

    def _launch(self, arguments: list[str], files: Sequence[int]) -> None:
        """Start a cell, and tell its process number."""
        process = os.fork() if is_single_threaded() else start_anew(arguments, files)
        if process == 0:
            leave_after(lambda: self._become(arguments, files))
        status = os.dup(files[2])
        self._ended[process] = status
        tell(status, process)

    def _become(self, arguments: list[str], files: Sequence[int]) -> None:
        """Be the cell from now on."""
        os.setsid()
        for number, file in enumerate((files[0], files[1], files[1])):
            os.dup2(file, number)
        self._forget(files)
        import_module("lvexport.cell").main(arguments)

    def _forget(self, files: Sequence[int]) -> None:
        """Let go of what is the server's alone, in a copy of it."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._requests.close()
        for branch in self._branches.values():
            branch.close()
        for file in (self._woken, self._wakes, *files, *(s for s in self._ended.values() if s is not None)):
            os.close(file)

    def _reap(self) -> None:
        """Tell the exit codes of the processes that have ended."""
        while self._ended:
            process, status = os.waitpid(-1, os.WNOHANG)
            if not process:
                return
            told = self._ended.pop(process)
            if told is not None:
                tell(told, os.waitstatus_to_exitcode(status))
                os.close(told)


def leave_after(work: Callable[[], None]) -> NoReturn:
    """Do this and end the process, whatever happens."""
    try:
        work()
    except BaseException:  # nothing may run on in a copy of the server as if it were the server
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def tell(pipe: int, number: int) -> None:
    with suppress(BrokenPipeError):  # nobody wants to know any more
        os.write(pipe, b"%d\n" % number)


def is_single_threaded() -> bool:
    """Whether this process has no thread but this one, those of libraries counted."""
    return len(list(Path("/proc/self/task").iterdir())) == 1


def start_anew(arguments: Sequence[str], files: Sequence[int]) -> int:
    """Start a cell in a new process; its number."""
    given = [(os.POSIX_SPAWN_DUP2, file, number) for number, file in enumerate((files[0], files[1], files[1]))]
    line = [sys.executable, "-m", "lvexport.cell", *arguments]
    return os.posix_spawn(sys.executable, line, os.environ, file_actions=given, setsid=True)


def main() -> None:
    requests = socket.socket(fileno=os.dup(0))
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    Server(requests).serve()


if __name__ == "__main__":
    main()
