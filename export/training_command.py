"""What the words of ``lvexport train`` mean, checked before torch is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lvexport.errors import Interrupted, UnknownName, UsageError, is_interruption
from lvexport.models.provenance import choose_weights
from lvexport.models.registry import ENTRIES, Entry, families

# Data sets whose pictures are smaller than the networks' own sizes.
SMALL_PICTURES = {"fashion-mnist": 64, "collages": 96}


def choose(model: str, data: str, sizes: str, imgsz: int | None) -> tuple[Entry, tuple[int, ...], int]:
    """The network, the sizes to train at, and the size to measure at. Raises UsageError."""
    name = families().get(model, model)
    if name not in ENTRIES:
        raise UnknownName("model to train", model, [*ENTRIES, *families()])
    entry = ENTRIES[name]
    side = imgsz if imgsz is not None else SMALL_PICTURES.get(data, entry.imgsz)
    chosen = parse_sizes(sizes) or (side,)
    for size in (side, *chosen):
        entry.check_size(size)
    return entry, chosen, side


def begin_with(name: str, start: str | None, freeze: int) -> Path | None:
    """The checkpoint that ``--start`` names. Raises UsageError or ModelError."""
    if freeze < 0 or (freeze and start is None):
        raise UsageError(f"--freeze {freeze} keeps the weights of that many stages as --start has them. Give --start.")
    if start is None:
        return None
    found = choose_weights(name, start)
    if found.path is None or found.kind == "hub":
        raise UsageError(f"--start takes demo or a checkpoint's PATH, not {start}. Random weights are the default.")
    return found.path


@contextmanager
def stoppable() -> Iterator[None]:
    """Say at Ctrl-C that nothing is lost."""
    try:
        yield
    except BaseException as error:
        if not is_interruption(error):
            raise
        raise Interrupted("Stopped. Type the same command again to go on from the last saved state.") from error


def parse_sizes(text: str) -> tuple[int, ...]:
    """``"32,64"`` → (32, 64), in order and each once."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not all(word.isdecimal() for word in words):
        raise UsageError(f"--sizes takes pixels a side with commas, such as 160,192,256, not {text!r}.")
    return tuple(sorted({int(word) for word in words}))


def check_shares(**shares: float) -> None:
    """Raise UsageError for an option that is a share of one and is not from 0 to below 1."""
    for name, value in shares.items():
        if not 0 <= value < 1:
            raise UsageError(f"--{name.replace('_', '-')} is a share, from 0 to below 1, not {value}.")
