"""``lvexport`` and ``python -m lvexport``: run a command; what goes wrong becomes a paragraph and an exit code."""

from __future__ import annotations

import errno
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

USAGE, FAILED, INTERRUPTED = 2, 3, 130
NO_SPACE = os.strerror(errno.ENOSPC)


def main() -> None:
    """Entry point of the console script."""
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(run(sys.argv[1:]))


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def run(arguments: list[str]) -> int:
    """Run a command line; its exit code. Nothing but ``--debug`` brings a traceback."""
    from cyclopts import CycloptsError

    from lvexport.cli import app

    try:
        code = app(arguments or ["--help"], exit_on_error=False, print_error=False, result_action="return_value")
        return int(code or 0)
    except CycloptsError as error:
        return complain(str(error).strip(), USAGE, " Type lvexport --help for what there is.")
    except BrokenPipeError:
        sys.stderr.close()
        return FAILED
    except (Exception, KeyboardInterrupt) as error:
        if "--debug" in arguments and not isinstance(error, KeyboardInterrupt):
            raise
        return explain(error)


def explain(error: BaseException) -> int:
    """Print an error that a command ended with; its exit code."""
    from lvexport.errors import CellError, Interrupted, LvexportError, is_interruption
    from lvexport.models.errors import ModelError

    if is_interruption(error) and not isinstance(error, Interrupted):
        return complain(
            "Stopped. Artifacts that were already verified are in the bundle; nothing else was changed.", INTERRUPTED
        )
    if isinstance(error, ModelError):
        return complain(str(error), USAGE)
    if isinstance(error, CellError):
        return complain(
            f"{str(error)[:1].upper()}{str(error)[1:]}.", error.exit_code, " --debug shows what its process printed."
        )
    if isinstance(error, LvexportError):
        return complain(str(error), error.exit_code)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return full_disk()
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return complain(
            f"The system refused: {where}{error.strerror or error}.", FAILED, " Nothing that was there is changed."
        )
    if NO_SPACE in str(error):  # as libraries report it that have errors of their own
        return full_disk()
    return complain(
        f"Something went wrong that should not have: {type(error).__name__}: {error}.",
        FAILED,
        " Type the command again with --debug for the traceback, and please report it.",
    )


def full_disk() -> int:
    text = "The disk is full. Free some space, or choose other folders with --output DIR and TMPDIR (scratch files)."
    return complain(text, FAILED, " Nothing that was there is changed.")


def complain(what: str, code: int, more: str = "") -> int:
    print(f"lvexport: {what}{more}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
