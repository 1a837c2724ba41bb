"""One cell made: the original rounded where its recipe asks for that, converted, and run over the sample."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lvexport import files, fronts, tuning
from lvexport.calibration import Calibration
from lvexport.compressing import Compressed, Program, calibrated, compress, fitted, rounding
from lvexport.converters.contract import Captured, Notes
from lvexport.errors import CellError, LvexportError, NotRunError
from lvexport.feeding import load_outputs
from lvexport.fronts import Contender
from lvexport.inputs import Sample, normalisation
from lvexport.jobs import NOTES, RUN_RESULT, Capture, ConvertJob, Inputs, ReferenceJob, RunJob, RunResult
from lvexport.plan import DEFAULT_OPTIMIZE, Cell, Plan
from lvexport.processes import Workshop
from lvexport.quantizing import quantize, too_dear
from lvexport.validation.contract import Array
from lvexport.validation.runtimes.registry import RUNTIMES

if TYPE_CHECKING:
    from torch import nn

Report = Callable[[str, str], None]  # what is being worked on, and how far it is
ATTEMPTS = 3  # at an artifact within the budget, each with more layers in floating point


def silent(what: str, state: str) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Original:
    """The captured program, and what it was captured from where that lives in this process alone."""

    capture: Capture
    program: Path
    model: nn.Module | None


@dataclass(frozen=True)
class Made:
    """What became of one cell: an artifact with its measured outputs, or an error.

    ``network``: the original with the roundings of its recipe, where that has any. ``contenders``: what it is measured
    beside, where its layers were chosen by search.
    """

    cell: Cell
    seconds: float = 0.0
    artifact: Path | None = None
    notes: Notes | None = None
    rewrites: tuple[str, ...] = ()
    network: Compressed | None = None
    run: RunResult | None = None
    outputs: list[Array] = field(default_factory=list)
    error: str | None = None
    log: str = ""
    not_run: bool = False
    contenders: tuple[Contender, ...] = ()


@dataclass(frozen=True)
class Making:
    """What all cells of one call share. ``calibration`` is there where a recipe needs it.

    ``simulated``: networks with rounded weights of which an artifact rounds them as they come. ``floating``: targets of
    which the bundle has or gets an artifact in single precision.
    """

    plan: Plan
    shop: Workshop
    original: Original
    sampled: Sample
    calibration: Calibration | None
    simulated: frozenset[str]
    work: Path
    report: Report
    floating: frozenset[str] = frozenset()
    _calibrating: threading.Lock = field(default_factory=threading.Lock)
    _calibrated: list[list[Array]] = field(default_factory=list)  # one, once the first artifact asked for it

    def reference(self, inputs: Inputs, name: str) -> list[Array]:
        """The original's own outputs."""
        out, original = self.shop.folder / f"reference-{name}.safetensors", self.original
        if original.model is None:
            self.shop.do(ReferenceJob(original.capture.source, inputs, out, original.capture.state_digest))
        else:
            from lvexport.capture import evaluate

            evaluate(original.model, inputs, out)
        return load_outputs(out)

    def reference_over_sample(self) -> list[Array]:
        """Those that verdicts compare with."""
        self.report("original", "running")
        found = self.reference(self.sampled.inputs, "sample")
        self.report("original", "done")
        return found

    def reference_over_calibration(self, inputs: Inputs) -> list[Array]:
        """Those that artifacts of a search compare with, taken once for all of them."""
        with self._calibrating:
            if not self._calibrated:
                self._calibrated.append(self.reference(inputs, "calibration"))
        return self._calibrated[0]

    def rounded(self, cell: Cell, kept: int = 0) -> Compressed:
        """The original with the roundings that a cell's recipe asks for, and its outputs over the sample."""
        what = f"{cell.recipe} layers" if calibrated(cell.recipe) else f"{cell.recipe} weights"
        self.report(what, "running")
        plan, given = self.plan, self.calibration
        original = Program(self.original.program, self.original.capture.source)
        if given is not None and calibrated(cell.recipe):
            made = quantize(self.shop, original, plan, cell, given, self.sampled, kept)
        else:
            of = rounding(cell.target, cell.recipe, plan.rewrites(cell), plan.calibration_digest)
            assert of is not None
            inputs = given.inputs if given is not None and fitted(cell.recipe) else None
            made = compress(self.shop, original, of, inputs, self.sampled, of.name in self.simulated)
        self.report(what, "done")
        return made

    def make(self, cell: Cell, network: Future[Compressed] | None) -> Made:
        """Convert and run one cell; ``network`` is what the recipe makes of the original."""
        start = time.monotonic()
        rejected: list[Contender] = []
        try:
            rounded = None if network is None else network.result()
            made = self.converted(cell, rounded)
            for _ in range(1, ATTEMPTS):
                if not self.overspends(made):
                    break
                rejected.append(fronts.set_aside(self, made))
                made = self.converted(cell, self.rounded(cell, following(made)))
        except LvexportError as error:
            return failure(cell, "rounding", error, time.monotonic() - start)
        if made.error is not None:
            return made
        made = self.run(replace(made, seconds=time.monotonic() - start))
        if rounded is None or made.run is None or not fronts.wanted(cell):
            return made
        return replace(made, contenders=fronts.contenders(self, made, rejected, rounded))

    def converted(self, cell: Cell, network: Compressed | None) -> Made:
        """One cell converted, and not run yet."""
        self.report(cell.label, "converting")
        plan = self.plan
        artifact = self.work / cell.file_name(plan.source.bundle_name)
        files.remove(artifact)
        try:
            rewrites = plan.rewrites(cell)
            if plan.optimize == "tune" and network is None:
                say, digest = partial(self.report, cell.label), self.original.capture.digest
                rewrites = tuning.tune(self.shop, cell, self.captured(network), digest, say).rewrites
            notes, rewrites = self.convert(cell, network, artifact, rewrites)
        except LvexportError as error:
            return failure(cell, "converting", error, 0.0)
        return Made(cell, 0.0, artifact, notes, rewrites, network)

    def convert(
        self, cell: Cell, network: Compressed | None, artifact: Path, rewrites: tuple[str, ...] | None = None
    ) -> tuple[Notes, tuple[str, ...]]:
        """Write a cell's artifact; the converter's notes, and how the program was rewritten: as the table says, or
        by ``rewrites``. Raises LvexportError."""
        plan, captured = self.plan, self.captured(network)
        asked = plan.rewrites(cell) if rewrites is None else rewrites
        if network is not None:
            notes, _ = convert(self.shop, cell, captured, artifact, (), plan.optimize)
            return replace(notes, sqnr_db=network.sqnr_db), asked
        return convert(self.shop, cell, captured, artifact, asked, plan.optimize)

    def captured(self, network: Compressed | None) -> Captured:
        """The program to convert, with what its file does not say: the original, or what its recipe makes of it."""
        capture = self.original.capture
        program = self.original.program if network is None else network.program
        norm = normalisation(capture.source, capture.inputs)
        return Captured(program, capture.inputs, capture.outputs, norm, capture.source.labels)

    def overspends(self, made: Made) -> bool:
        """Whether an artifact whose layers were chosen by search loses more than it may, where the search looked."""
        integer = None if made.network is None else made.network.integer
        if made.artifact is None or self.calibration is None or integer is None or integer.within is None:
            return False
        if not integer.layers or not RUNTIMES[made.cell.target].available().here:
            return False
        self.report(made.cell.label, "running over calibration inputs")
        out = self.shop.folder / f"{made.artifact.name}.calibration"
        self.shop.do(RunJob(made.cell.target, made.artifact, self.calibration.inputs, out))
        references = self.reference_over_calibration(self.calibration.inputs)
        return too_dear(references, load_outputs(out), self.calibration.labels, self.plan)

    def run(self, made: Made) -> Made:
        """Run a cell's artifact over the sample."""
        cell, artifact = made.cell, made.artifact
        assert artifact is not None
        available = RUNTIMES[cell.target].available()
        if not available.here:
            return replace(made, error=available.reason, not_run=True)
        self.report(cell.label, "running")
        out = self.shop.folder / f"{artifact.name}.outputs"
        try:
            layers = None if made.network is None else made.network.layers
            job = RunJob(cell.target, artifact, self.sampled.inputs, out, layers=layers)
            run = RUN_RESULT.validate_python(self.shop.do(job))
        except NotRunError as error:
            return replace(made, error=str(error), not_run=True)
        except LvexportError as error:
            return failure(cell, "running", error, made.seconds)
        return replace(made, run=run, outputs=load_outputs(out))


def following(made: Made) -> int:
    """How many layers the next attempt leaves in floating point at least."""
    assert made.network is not None
    assert made.network.integer is not None
    return max(1, 2 * len(made.network.integer.floating))


def convert(
    shop: Workshop, cell: Cell, captured: Captured, artifact: Path, rewrites: tuple[str, ...], optimize: str
) -> tuple[Notes, tuple[str, ...]]:
    """Convert the program, rewritten; where nobody asked for that and it fails, as it is. Notes and rewrites done."""
    job = ConvertJob(cell.target, cell.recipe, dict(cell.options), captured, artifact, rewrites)
    try:
        return NOTES.validate_python(shop.do(job)), rewrites
    except CellError as error:
        if not rewrites or optimize != DEFAULT_OPTIMIZE or shop.stop.is_set():
            raise
        files.remove(artifact)
        notes: Notes = NOTES.validate_python(shop.do(replace(job, rewrites=())))
        remark = f"converted as it was captured, since converting it rewritten for inference failed: {error}"
        return replace(notes, remarks=(*notes.remarks, remark)), ()


def failure(cell: Cell, stage: str, error: LvexportError, seconds: float) -> Made:
    log = error.log if isinstance(error, CellError) else ""
    return Made(cell, seconds, error=f"{stage} failed: {error}", log=log)
