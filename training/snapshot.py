"""The state of a training in the middle, on disk: a run that was killed goes on from it as if nothing had happened."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lvexport.training.errors import TrainingError


@dataclass
class Point:
    """One point of the training curve."""

    samples: int  # seen so far
    loss: float  # mean since the point before
    accuracy: float | None = None  # of the average, where it was measured


@dataclass
class Position:
    """How far a training is."""

    epoch: int = 0
    iteration: int = 0  # of the epoch
    samples: int = 0  # seen in all epochs, by all workers
    seconds: float = 0.0  # spent, also by the runs before this one
    curve: list[Point] = field(default_factory=list)


@dataclass(frozen=True)
class Snapshot:
    """``request`` is what the run was asked for: a run that was asked for something else does not go on from it."""

    request: dict[str, Any]
    position: Position
    model: dict[str, Tensor]
    average: dict[str, Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]


def save(snapshot: Snapshot, path: Path) -> None:
    """Write beside its place, flush to the disk, and rename: a kill leaves the old snapshot or the new one."""
    beside = path.with_suffix(".part")
    fields = {name: getattr(snapshot, name) for name in ("request", "model", "average", "optimizer", "scaler")}
    with beside.open("wb") as file:
        torch.save({**fields, "position": asdict(snapshot.position)}, file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def load(path: Path, request: dict[str, Any]) -> Snapshot | None:
    """The snapshot at ``path``, or None where there is none.

    Raises TrainingError where it cannot be read or belongs to another request.
    """
    if not path.exists():
        return None
    try:
        fields = torch.load(path, map_location="cpu", weights_only=True)
        position = Position(**fields.pop("position"))
        position.curve = [Point(**point) for point in position.curve]  # type: ignore[arg-type]
        found = Snapshot(position=position, **fields)
    except Exception as error:  # a damaged file can make the reader raise anything
        raise TrainingError(
            f"The saved state {path} cannot be read. Type --force to train anew, or another --output."
        ) from error
    if changed := sorted(name for name in request if found.request.get(name) != request[name]):
        raise TrainingError(
            f"{path.parent} holds a training that is not finished and was asked for with another {', '.join(changed)}. "
            "To go on with it type what was typed then; or --force to train anew, or another --output."
        )
    return found
