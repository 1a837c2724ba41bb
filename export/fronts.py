"""What a search's choice is seen beside: artifacts with other layers in integers, made, run and timed in turn.

Each of them is converted like the chosen one and run over the inputs of the verdict, which calibration and search did
not see. Timing comes last, when nothing else is being made.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lvexport import files, machine, pareto
from lvexport.converters.recipes import FP32, RECIPES
from lvexport.errors import LvexportError
from lvexport.feeding import load_outputs
from lvexport.jobs import RUN_RESULT, RunJob, RunResult
from lvexport.manifest import ArtifactInfo, FrontInfo, LatencyInfo, PointInfo, VerdictInfo
from lvexport.plan import Cell
from lvexport.timing import times
from lvexport.validation.contract import Array
from lvexport.validation.runtimes.registry import RUNTIMES
from lvexport.validation.verdict import Verdict, judge_all

if TYPE_CHECKING:
    from lvexport.compressing import Compressed
    from lvexport.making import Made, Making

THREADS = 1
ROUNDS, RUNS = 9, 5


@dataclass(frozen=True)
class Contender:
    """An artifact that may be on a front. ``kept``: layers in floating point, None where all are.

    ``weights``, ``macs``: shares of the whole that integers hold and compute. ``error``: why there is no ``run``.
    """

    recipe: str
    kept: int | None
    weights: float
    macs: float
    artifact: Path
    run: RunResult | None = None
    outputs: list[Array] = field(default_factory=list)
    error: str = ""

    @property
    def name(self) -> str:
        return self.recipe if self.kept is None else f"{self.recipe} with {self.kept} layers in floating point"


def floating(cell: Cell) -> Cell | None:
    """The cell of the same target with everything in single precision; None where the target has no such recipe."""
    return Cell(cell.target, FP32.name, cell.options) if FP32.name in cell.converter.recipes else None


def wanted(cell: Cell) -> bool:
    """Whether a cell's layers are chosen by search, and what runs here can be measured."""
    recipe = RECIPES.get(cell.recipe)
    return recipe is not None and recipe.mixed and RUNTIMES[cell.target].available().here


def set_aside(making: Making, made: Made) -> Contender:
    """An attempt that loses too much, moved to where the next one does not displace it."""
    assert made.artifact is not None
    found = contender(making, made)
    files.remove(found.artifact)
    made.artifact.rename(found.artifact)
    return found


def contender(making: Making, made: Made) -> Contender:
    """What was made, under the name that it has aside."""
    assert made.network is not None
    assert made.network.integer is not None
    integer = made.network.integer
    kept = len(integer.floating)
    return Contender(made.cell.recipe, kept, integer.weights, integer.macs, aside(making, made.cell, kept))


def aside(making: Making, cell: Cell, kept: int | None) -> Path:
    """Where an artifact is made that does not go into the bundle; its folder is there."""
    folder = making.work / f"{cell.recipe}.{cell.target.replace(':', '-')}.{'all' if kept is None else kept}-floating"
    folder.mkdir(exist_ok=True)
    return folder / cell.file_name(making.plan.source.bundle_name)


def contenders(making: Making, made: Made, rejected: Sequence[Contender], first: Compressed) -> tuple[Contender, ...]:
    """All that an artifact is seen beside, run over the inputs of the verdict.

    Attempts that lost too much, ``first``'s other assignments, and floating point unless the bundle has that.
    """
    assert made.network is not None
    assert made.network.integer is not None
    known = {len(made.network.integer.floating), *(c.kept for c in rejected)}
    cell, found = made.cell, list(rejected)
    for assignment, program in first.others:
        if assignment.kept not in known:
            artifact = aside(making, cell, assignment.kept)
            other = Contender(cell.recipe, assignment.kept, assignment.weights, assignment.macs, artifact)
            found.append(converted(making, cell, cell, replace(first, program=program), other))
    single = floating(cell)
    if single is not None and cell.target not in making.floating:
        other = Contender(single.recipe, None, 0.0, 0.0, aside(making, single, None))
        found.append(converted(making, cell, single, None, other))
    return tuple(c if c.error else run(making, cell, c) for c in found)


def converted(making: Making, beside: Cell, cell: Cell, network: Compressed | None, found: Contender) -> Contender:
    """One artifact more, made as ``cell`` for the sake of the cell ``beside``."""
    making.report(beside.label, "converting what it is compared with")
    try:
        making.convert(cell, network, found.artifact)
    except LvexportError as error:
        return replace(found, error=f"converting failed: {error}")
    return found


def run(making: Making, cell: Cell, found: Contender) -> Contender:
    """The same with its outputs over the inputs of the verdict."""
    making.report(cell.label, "running what it is compared with")
    out = making.shop.folder / f"{found.artifact.parent.name}.outputs"
    job = RunJob(cell.target, found.artifact, making.sampled.inputs, out, bounds=False)
    try:
        return replace(found, run=RUN_RESULT.validate_python(making.shop.do(job)), outputs=load_outputs(out))
    except LvexportError as error:
        return replace(found, error=f"running failed: {error}")


@dataclass(frozen=True)
class Judged:
    """A contender with what its outputs came to."""

    recipe: str
    kept: int | None
    weights: float
    macs: float
    artifact: Path
    verdict: Verdict | VerdictInfo
    chosen: bool = False

    @property
    def drop(self) -> float | None:
        """Of accuracy, as a share of all inputs."""
        v = self.verdict
        return None if v.accuracy is None or v.reference_accuracy is None else v.reference_accuracy - v.accuracy


def measure(
    making: Making, made: Made, info: ArtifactInfo, beside: ArtifactInfo | None, folder: Path, references: list[Array]
) -> FrontInfo:
    """The front of an artifact whose row is ``info``; ``beside`` is that of floating point, if the bundle has it.

    ``folder``: where the bundle is. ``references``: the original's outputs over the inputs of the verdict.
    """
    making.report(made.cell.label, "timing it beside others")
    found, left_out = judged(making, made, info, references)
    if beside is not None and beside.path is not None and beside.verdict is not None:
        found.append(Judged(beside.recipe, None, 0.0, 0.0, folder / beside.path, beside.verdict))
    elif made.cell.target in making.floating:
        left_out[FP32.name] = "it could not be made or run"
    elif floating(made.cell) is None:
        left_out[FP32.name] = made.cell.converter.refusals[FP32.name]
    found.sort(key=lambda one: (one.kept is not None, -(one.kept or 0)))
    latencies, untimed = timed(made.cell.target, found)
    return FrontInfo(
        runtime=RUNTIMES[made.cell.target].available().name,
        machine=machine.describe(),
        threads=THREADS,
        inputs=making.sampled.origin,
        points=points(found, latencies),
        untimed=untimed,
        left_out=left_out,
    )


def judged(
    making: Making, made: Made, info: ArtifactInfo, references: list[Array]
) -> tuple[list[Judged], dict[str, str]]:
    """The chosen artifact and those contenders that answered, and why the others did not."""
    assert made.artifact is not None
    assert info.verdict is not None
    own = contender(making, made)
    found = [Judged(own.recipe, own.kept, own.weights, own.macs, made.artifact, info.verdict, chosen=True)]
    left_out = {c.name: c.error for c in made.contenders if c.error}
    for c in made.contenders:
        if c.run is None:
            continue
        recipe, depth = made.cell.converter.recipes[c.recipe], making.original.capture.depth
        try:
            verdict = judge_all(references, c.outputs, c.run.outputs, making.sampled.labels, recipe, "", depth)
        except ValueError as error:
            left_out[c.name] = str(error)
        else:
            found.append(Judged(c.recipe, c.kept, c.weights, c.macs, c.artifact, verdict))
    return found, left_out


def timed(target: str, found: Sequence[Judged]) -> tuple[list[LatencyInfo | None], str | None]:
    """The latency of each, or why there are none."""
    untimed = RUNTIMES[target].available().untimed
    if not untimed:
        try:
            turns = times([(target, one.artifact) for one in found], THREADS, ROUNDS, RUNS)
            return [latency([turn[i] for turn in turns]) for i in range(len(found))], None
        except LvexportError as error:
            untimed = str(error)
    return [None] * len(found), untimed


def latency(turns: Sequence[Sequence[float]]) -> LatencyInfo:
    """Of milliseconds, turn by turn."""
    flat = [ms for turn in turns for ms in turn]
    low, median, high = (round(ms, 4) for ms in statistics.quantiles(flat, n=4))
    return LatencyInfo(median=median, quartiles=(low, high), runs=len(flat))


def points(found: Sequence[Judged], latencies: Sequence[LatencyInfo | None]) -> tuple[PointInfo, ...]:
    """The manifest's rows. Where classes are not known, retrieval agreement stands in for accuracy."""
    sizes = [files.size(one.artifact) for one in found]
    losses = [-one.verdict.retrieval_agreement if one.drop is None else one.drop for one in found]
    medians = [None if ms is None else ms.median for ms in latencies]
    costs = [pareto.Costs(*row) for row in zip(sizes, medians, losses, strict=True)]
    return tuple(
        PointInfo(
            recipe=one.recipe,
            kept=one.kept,
            weights=one.weights,
            macs=one.macs,
            bytes=size,
            sha256=files.digest(one.artifact),
            latency=ms,
            samples=one.verdict.samples,
            sqnr_db=one.verdict.sqnr_db,
            retrieval_agreement=one.verdict.retrieval_agreement,
            drop=one.drop,
            chosen=one.chosen,
            on_front=on,
        )
        for one, size, ms, on in zip(found, sizes, latencies, pareto.front(costs), strict=True)
    )
