"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import shutil
import sys
from pathlib import Path

_AT_FDCWD = -100  # fcntl.h: paths are relative to the working directory
_RENAME_EXCHANGE = 2  # linux/fs.h, renameat2(2)
_RENAME_SWAP = 2  # sys/stdio.h on macOS, renamex_np(2)


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_under(path: Path) -> list[Path]:
    """The file itself, or all files in the folder, sorted by their path."""
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def digest(path: Path) -> str:
    """SHA-256 of a file; of a folder, of the lines ``<sha256>  <relative path>`` of its files, sorted by path."""
    if not path.is_dir():
        return file_digest(path)
    lines = (f"{file_digest(p)}  {p.relative_to(path).as_posix()}\n" for p in files_under(path))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(p.stat().st_size for p in files_under(path))


def remove(path: Path) -> None:
    """Delete a file or folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def link(source: str, target: str) -> None:
    """A second name for a file, or a copy where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def clone(source: Path, target: Path) -> None:
    """The same file or folder under another name, without copying the data where that is possible."""
    if source.is_dir():
        shutil.copytree(source, target, copy_function=link)
    else:
        link(str(source), str(target))


def make_readable(path: Path) -> None:
    """Give files that a library made for its user alone the mode that new files have."""
    for file in files_under(path):
        file.chmod(0o644)


def flush(folder: Path) -> None:
    """Ask the system to have everything in the folder on disk."""
    for path in files_under(folder):
        with path.open("rb") as file:
            os.fsync(file.fileno())


def exchange(a: Path, b: Path) -> bool:
    """Swap two names in one step of the file system; False where the system cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    first, second = os.fsencode(a), os.fsencode(b)
    if sys.platform == "darwin":
        result = libc.renamex_np(first, second, _RENAME_SWAP)
    elif hasattr(libc, "renameat2"):
        result = libc.renameat2(_AT_FDCWD, first, _AT_FDCWD, second, _RENAME_EXCHANGE)
    else:
        return False
    if result == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(b))


def put_in_place(prepared: Path, final: Path) -> None:
    """Give a finished folder its final name; what had that name before is gone afterwards.

    Whoever looks sees the old folder or the new one, never a mixture. Where the file system cannot swap two names, the
    old folder is set aside under a name that :func:`recover` knows.
    """
    flush(prepared)
    if not final.exists():
        prepared.rename(final)
        return
    if not exchange(prepared, final):
        aside = aside_name(final)
        final.rename(aside)
        prepared.rename(final)
        remove(aside)
        return
    remove(prepared)


def aside_name(final: Path) -> Path:
    return final.with_name(f".{final.name}.old")


def recover(final: Path) -> None:
    """Bring back a folder that a run was killed over while it was set aside."""
    aside = aside_name(final)
    if aside.exists() and not final.exists():
        aside.rename(final)
    remove(aside)
