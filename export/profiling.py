"""Where the time of one artifact goes, operation by operation."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lvexport import machine
from lvexport.benching import artifacts_in
from lvexport.errors import CellError, UsageError
from lvexport.jobs import OP_COSTS, Limits, ProfileJob
from lvexport.processes import Workshop
from lvexport.validation.contract import OpCost
from lvexport.validation.runtimes.registry import RUNTIMES
from lvexport.verification import target_of


@dataclass(frozen=True)
class Profiled:
    """``ops`` are in the order in which they first ran; their seconds are medians over ``inferences``."""

    artifact: str
    target: str
    machine: str
    threads: int
    inferences: int
    seconds: float
    ops: tuple[OpCost, ...]

    def slowest(self, most: int) -> list[OpCost]:
        return sorted(self.ops, key=lambda op: -op.seconds)[:most]


def profile(paths: Sequence[Path], threads: int, inferences: int) -> Profiled:
    """Time the operations of the one artifact that ``paths`` name.

    Raises UsageError where they name more, and CellError where its runtime is not here or does not tell.
    """
    found = [artifact for path in paths for artifact in artifacts_in(path)]
    if len(found) != 1:
        raise UsageError(
            f"One artifact is profiled at a time, and {len(found)} were named. Type lvexport bench ARTIFACT --profile"
        )
    (artifact,) = found
    target = target_of(artifact)
    available = RUNTIMES[target].available()
    if not available.here:
        raise CellError(available.reason)
    limits = Limits(threads=threads)
    with tempfile.TemporaryDirectory(prefix="lvexport-") as scratch:
        answer = Workshop(Path(scratch), limits).do(ProfileJob(target, artifact.resolve(), threads, inferences))
    ops = OP_COSTS.validate_python(answer)
    seconds = sum(op.seconds for op in ops)
    return Profiled(artifact.name, target, machine.describe(), threads, inferences, seconds, ops)
