"""What the user says of a model, in place of what is known of it: how its pictures are prepared, and its labels."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lvexport.errors import UsageError
from lvexport.models.preprocessing import INTERPOLATIONS, Preprocessing

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Overrides:
    """None, and no labels, where nothing was said. ``mean`` and ``std`` are RGB, in units of full scale."""

    mean: Colour | None = None
    std: Colour | None = None
    crop_pct: float | None = None
    interpolation: str | None = None
    labels: tuple[str, ...] = ()

    def preprocessing(self, known: Preprocessing) -> Preprocessing:
        """What is known, with what was said in its place."""
        return replace(
            known,
            mean=known.mean if self.mean is None else self.mean,
            std=known.std if self.std is None else self.std,
            crop_pct=known.crop_pct if self.crop_pct is None else self.crop_pct,
            interpolation=known.interpolation if self.interpolation is None else self.interpolation,
        )


NOTHING_SAID = Overrides()


def read(
    mean: str | Sequence[float] | None = None,
    std: str | Sequence[float] | None = None,
    crop_pct: float | None = None,
    interpolation: str | None = None,
    labels: str | Path | Iterable[str] | None = None,
) -> Overrides:
    """Overrides as they are typed or given from Python. ``labels``: the labels, or a file of them.

    Raises UsageError for what cannot be.
    """
    spread = colour("std", std)
    if spread is not None and min(spread) <= 0:
        raise UsageError(f"--std is what the pixels are divided by, so each of {std} has to be more than 0.")
    if crop_pct is not None and not 0 < crop_pct <= 1:
        raise UsageError(
            f"--crop-pct is the share of the resized picture's side that is kept, more than 0 and at most 1, such as "
            f"0.875, not {crop_pct}."
        )
    if interpolation not in (None, *INTERPOLATIONS):
        raise UsageError(f"--interpolation takes {' or '.join(INTERPOLATIONS)}, not {interpolation}.")
    return Overrides(colour("mean", mean), spread, crop_pct, interpolation, named(labels))


def colour(option: str, given: str | Sequence[float] | None) -> Colour | None:
    """``"0.485,0.456,0.406"``, or three numbers, as numbers. Raises UsageError for anything else."""
    if given is None:
        return None
    try:
        numbers = tuple(map(float, given.split(",") if isinstance(given, str) else given))
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != 3 or not all(map(math.isfinite, numbers)):
        raise UsageError(
            f"--{option} takes three numbers, for red, green and blue, in units of full scale, such as "
            f"--{option} 0.485,0.456,0.406; {given!r} is not that."
        )
    return numbers


def named(labels: str | Path | Iterable[str] | None) -> tuple[str, ...]:
    """The labels given, or those of the file given."""
    if labels is None:
        return ()
    found = labels_of(Path(labels)) if isinstance(labels, str | Path) else tuple(labels)
    if not found or not all(isinstance(label, str) and label.strip() for label in found):
        raise UsageError(
            "--labels takes one label for each class, and some of those given are empty or no text. A file holds one "
            "label a line, in the order of the model's outputs, or a JSON list of them."
        )
    return found


def labels_of(path: Path) -> tuple[str, ...]:
    """The labels in a file: a JSON list, or one a line."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise UsageError(
            f"The labels in {path} cannot be read: {reason}. Give a file with one label a line."
        ) from error
    if text.lstrip().startswith("["):
        try:
            return tuple(json.loads(text))
        except json.JSONDecodeError as error:
            raise UsageError(f"{path} begins like a JSON list of labels but is none ({error}). Mend it.") from error
    return tuple(line.strip() for line in text.strip().splitlines())


def check_labels(labels: tuple[str, ...], classes: int, name: str) -> None:
    """Raise UsageError unless there is one label for each class."""
    if labels and len(labels) != classes:
        raise UsageError(
            f"There are {len(labels)} labels, and {name} answers with {classes} classes; there has to be one for each, "
            f"in the order of the outputs. Check the file of --labels or, if it is right, type --num-classes "
            f"{len(labels)} and a checkpoint that has as many."
        )
