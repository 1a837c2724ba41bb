"""What can go wrong, one class a failure, each with its exit code. A message is one paragraph for the user."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LvexportError(Exception):
    """A converter, a runtime or the machine failed."""

    exit_code = 3


class UsageError(LvexportError):
    """What was typed cannot be done."""

    exit_code = 2


class UnknownName(UsageError):
    """A name that nothing here answers to."""

    def __init__(self, kind: str, given: str, known: Iterable[str], more: str = "") -> None:
        known = list(known)
        close = difflib.get_close_matches(given.lower(), known, n=1, cutoff=0.5)
        hint = f" Did you mean {close[0]}?" if close else ""
        super().__init__(f"There is no {kind} named {given!r}.{hint} There are: {', '.join(known)}.{more}")


class OutputError(UsageError):
    """The place for the results cannot be written."""


class BundleError(UsageError):
    """The path given is no bundle or artifact that can be read."""


class CellError(LvexportError):
    """A process that converted or ran an artifact failed. ``log`` holds what it printed."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


class NotRunError(CellError):
    """The artifact is sound, and nothing here can run it."""


class Interrupted(LvexportError):
    """Ctrl-C or a termination signal."""

    exit_code = 130


def is_interruption(error: BaseException) -> bool:
    """Whether an error is Ctrl-C, or was raised while something cleaned up after Ctrl-C.

    torch.save closes its archive on the way out, and where the interrupt came in the middle of a record, closing fails
    with a RuntimeError that hides it.
    """
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, KeyboardInterrupt):
        seen = seen.__cause__ or seen.__context__
    return seen is not None
