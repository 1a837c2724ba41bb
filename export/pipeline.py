"""The main job: capture once, then convert, run and judge every cell in its own processes, and bundle the results."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lvexport import bundle, files, golden, machine, tuning
from lvexport.bundle import Bundle
from lvexport.compressing import Compressed, compress, compressing
from lvexport.converters.contract import Captured, Notes, Recipe
from lvexport.documents import describe_original, same_original
from lvexport.errors import CellError, LvexportError, NotRunError
from lvexport.feeding import load_outputs
from lvexport.inputs import Sample, normalisation, prepare
from lvexport.jobs import (
    CAPTURE,
    NOTES,
    RUN_RESULT,
    Capture,
    CaptureJob,
    ConvertJob,
    ReferenceJob,
    RunJob,
    RunResult,
)
from lvexport.manifest import ArtifactInfo, DelegationInfo, GoldenInfo, Manifest, VerdictInfo
from lvexport.plan import DEFAULT_OPTIMIZE, Cell, Plan, key
from lvexport.processes import Workshop, interruptible
from lvexport.source import Source
from lvexport.validation.contract import Array
from lvexport.validation.labelling import mislabelled
from lvexport.validation.runtimes.registry import RUNTIMES
from lvexport.validation.verdict import Interval, Verdict, bounded, judge_all, judge_compressed

if TYPE_CHECKING:
    from torch import nn

Report = Callable[[str, str], None]  # what is being worked on, and how far it is


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

    ``networks``: what the network with rounded weights answers, where the recipe rounds them.
    """

    cell: Cell
    seconds: float = 0.0
    artifact: Path | None = None
    notes: Notes | None = None
    rewrites: tuple[str, ...] = ()
    run: RunResult | None = None
    outputs: list[Array] = field(default_factory=list)
    networks: list[Array] | None = None
    error: str | None = None
    log: str = ""
    not_run: bool = False


def export(plan: Plan, report: Report = silent, model: nn.Module | None = None) -> Bundle:
    """Make what the plan says. ``model`` is the original where the source is a module in this process's memory.

    Artifacts that are already there and would come out the same are kept. A cell that fails takes no other down: its
    error stands in the manifest.
    """
    bundle.check_writable(plan.output)
    with tempfile.TemporaryDirectory(prefix="lvexport-") as scratch:
        shop = Workshop(Path(scratch), plan.limits)
        original = None
        if not plan.source.imgsz:  # a .pt2 tells its size, and with it the bundle's name, only once it is read
            original = obtain(shop, plan.source, report, model)
            plan = replace(plan, source=replace(plan.source, imgsz=original.capture.source.imgsz))
        final = plan.output / plan.source.bundle_name
        with bundle.workspace(final) as work:
            kept = reusable(final, plan, plan.source.digest)
            if len(kept) == len(plan.cells):
                return unchanged(final, kept)
            with interruptible(shop):
                if original is None:
                    look_ahead(shop, plan, kept)
                    original = obtain(shop, plan.source, report, model)
                if plan.source.digest is None:  # a user's own code: only the captured program tells what it is
                    plan = replace(plan, source=original.capture.source)
                    kept = reusable(final, plan, original.capture.digest)
                    if len(kept) == len(plan.cells):
                        return unchanged(final, kept)
                return fill(plan, shop, original, work, final, kept, report)


def look_ahead(shop: Workshop, plan: Plan, kept: Mapping[Cell, ArtifactInfo]) -> None:
    """Have the first converters imported while the original is captured, by the workers that this leaves idle."""
    first = {cell.target: cell.converter.modules for cell in plan.cells if cell not in kept}
    for target, modules in list(first.items())[: plan.workers - 1]:
        shop.prepare(target, modules)


def unchanged(final: Path, kept: dict[Cell, ArtifactInfo]) -> Bundle:
    """The bundle as it is, its checksums mended where something was added to it or taken away."""
    found = bundle.read(final)
    if not bundle.checksums_hold(final):
        bundle.publish(final, found.manifest, {})
    return replace(found, requested=tuple(kept.values()))


def obtain(shop: Workshop, source: Source, report: Report, model: nn.Module | None) -> Original:
    """Capture the original, in a cell or, where it is an object in memory, here."""
    report("capture", "running")
    program = shop.folder / "program.pt2"
    if model is None:
        info = CAPTURE.validate_python(shop.do(CaptureJob(source, program)))
    else:
        from lvexport.capture import Built, capture

        model = copy.deepcopy(model).eval()  # the caller's own may go on training
        info = capture(Built(model, source), program)
    report("capture", "done")
    return Original(info, program, model)


def reusable(final: Path, plan: Plan, source_digest: str | None) -> dict[Cell, ArtifactInfo]:
    """Artifacts in the bundle that this plan would make again: same key, verified, and untouched since."""
    if plan.force or source_digest is None or not (final / bundle.MANIFEST).exists():
        return {}
    try:
        existing = bundle.read(final)
    except LvexportError:
        return {}
    golden_info = existing.manifest.golden
    if golden_info is None or not intact(final / golden_info.path, golden_info.sha256):
        return {}
    by_key = {a.key: a for a in existing.manifest.artifacts if a.status in ("ok", "failed") and a.path}
    found = {}
    for cell in plan.cells:
        artifact = by_key.get(key(plan, cell, source_digest))
        if artifact is not None and artifact.path is not None and intact(final / artifact.path, artifact.sha256):
            found[cell] = artifact
    return found


def intact(path: Path, sha256: str | None) -> bool:
    return path.exists() and files.digest(path) == sha256


def fill(
    plan: Plan,
    shop: Workshop,
    original: Original,
    work: Path,
    final: Path,
    kept: dict[Cell, ArtifactInfo],
    report: Report,
) -> Bundle:
    """Make all cells that are not kept, and publish the bundle anew as each of them is judged."""
    specs = original.capture.inputs
    count = plan.count(specs[0].shape[-1] if specs[0].shape else 1)
    sampled = prepare(original.capture.source, specs, count, shop.folder / "inputs.safetensors")
    manifest = carry_over(final, describe_original(plan, original.capture), kept)
    results: dict[Cell, ArtifactInfo] = dict(kept)
    logs: dict[str, str] = {}
    # The pool is left last, and waits for its threads; by then their cells must have been stopped.
    with ThreadPoolExecutor(plan.workers) as pool, interruptible(shop):
        reference = pool.submit(measure_reference, plan, shop, original, sampled, report)
        networks = {
            recipe: pool.submit(round_weights, shop, original, recipe, sampled, report)
            for recipe in compressing([*(c.recipe for c in plan.cells), *(a.recipe for a in manifest.artifacts)])
        }
        pending: set[Future[Made]] = {
            pool.submit(make, shop, cell, original, networks.get(cell.recipe), sampled, plan, work, report)
            for cell in plan.cells
            if cell not in kept
        }
        references = reference.result()
        rounded = {recipe: done.result().references for recipe, done in networks.items() if not done.exception()}
        manifest, new = add_golden(plan, manifest, original, sampled, references, rounded, work)
        while pending:
            finished, pending = wait(pending, return_when=FIRST_COMPLETED)
            for made in (future.result() for future in finished):
                info = finish(made, plan, original, sampled, references)
                report(made.cell.label, info.status)
                results[made.cell] = info
                if made.log:
                    logs[made.cell.label] = made.log
                manifest = with_artifact(manifest, info, plan)
                if made.artifact is not None and info.path is not None:
                    new[info.path] = made.artifact
                bundle.publish(final, manifest, new)
    ordered = tuple(results[cell] for cell in plan.cells)
    return Bundle(final, manifest, ordered, logs)


def measure_reference(plan: Plan, shop: Workshop, original: Original, sampled: Sample, report: Report) -> list[Array]:
    """The original's own outputs over the sample."""
    report("original", "running")
    out = shop.folder / "reference.safetensors"
    if original.model is None:
        capture = original.capture
        shop.do(ReferenceJob(capture.source, sampled.inputs, out, capture.state_digest))
    else:
        from lvexport.capture import evaluate

        evaluate(original.model, sampled.inputs, out)
    report("original", "done")
    return load_outputs(out)


def round_weights(shop: Workshop, original: Original, recipe: str, sampled: Sample, report: Report) -> Compressed:
    """The original with rounded weights, and its outputs over the sample."""
    report(f"{recipe} weights", "running")
    made = compress(shop, original.capture.source, original.program, recipe, sampled)
    report(f"{recipe} weights", "done")
    return made


def make(
    shop: Workshop,
    cell: Cell,
    original: Original,
    network: Future[Compressed] | None,
    sampled: Sample,
    plan: Plan,
    work: Path,
    report: Report,
) -> Made:
    """Convert and run one cell; ``network`` is the original with the weights that its recipe rounds."""
    try:
        program = original.program if network is None else network.result().program
    except LvexportError as error:
        return failure(cell, "rounding the weights", error, 0.0)
    report(cell.label, "converting")
    artifact = work / cell.file_name(plan.source.bundle_name)
    capture = original.capture
    norm = normalisation(capture.source, capture.inputs)
    captured = Captured(program, capture.inputs, capture.outputs, norm, capture.source.labels)
    start = time.monotonic()
    try:
        rewrites = plan.rewrites(cell)
        if plan.optimize == "tune":
            rewrites = tuning.tune(shop, cell, captured, capture.digest, partial(report, cell.label)).rewrites
        notes, rewrites = convert(shop, cell, captured, artifact, rewrites, plan.optimize)
    except LvexportError as error:
        return failure(cell, "converting", error, time.monotonic() - start)
    seconds = time.monotonic() - start
    available = RUNTIMES[cell.target].available()
    if not available.here:
        return Made(cell, seconds, artifact, notes, rewrites, error=available.reason, not_run=True)
    report(cell.label, "running")
    out = shop.folder / f"{artifact.name}.outputs"
    try:
        run = RUN_RESULT.validate_python(shop.do(RunJob(cell.target, artifact, sampled.inputs, out)))
        rounded = None if network is None else network.result().references
        return Made(cell, seconds, artifact, notes, rewrites, run, load_outputs(out), rounded)
    except NotRunError as error:
        return Made(cell, seconds, artifact, notes, rewrites, error=str(error), not_run=True)
    except LvexportError as error:
        return failure(cell, "running", error, seconds)


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


def finish(made: Made, plan: Plan, original: Original, sampled: Sample, references: list[Array]) -> ArtifactInfo:
    """The manifest's row for a cell, with its verdict."""
    cell = made.cell
    info = ArtifactInfo(
        target=cell.target,
        backend=cell.converter.backend,
        recipe=cell.recipe,
        options=dict(cell.options),
        route=made.notes.route if made.notes else None,
        path=made.artifact.name if made.artifact else None,
        bytes=files.size(made.artifact) if made.artifact else None,
        sha256=files.digest(made.artifact) if made.artifact else None,
        seconds=round(made.seconds, 3),
        status="not-run" if made.not_run else "error",
        error=made.error,
        verdict=None,
        remarks=made.notes.remarks if made.notes else (),
        rewrites=made.rewrites,
        rewrites_sqnr_db=made.notes.sqnr_db if made.notes else None,
        delegation=delegation(made.notes),
        key=key(plan, cell, plan.source.digest or original.capture.digest),
    )
    if made.run is None:
        return info
    recipe = cell.converter.recipes[cell.recipe]
    try:
        depth = original.capture.depth
        verdict = judge_run(references, made.outputs, made.run, sampled.labels, recipe, depth, made.networks)
    except ValueError as error:
        return info.model_copy(update={"error": str(error)})
    wrong = mislabelled(original.capture.source.labels, made.run.labels)
    return info.model_copy(update=judgement(verdict, wrong, sampled.origin))


def delegation(notes: Notes | None) -> DelegationInfo | None:
    """The converter's report on what a backend took, for the manifest."""
    if notes is None or notes.delegation is None:
        return None
    return DelegationInfo(**asdict(notes.delegation))


def judge_run(
    references: Sequence[Array],
    outputs: Sequence[Array],
    run: RunResult,
    labels: Array | None,
    recipe: Recipe,
    depth: int,
    networks: Sequence[Array] | None = None,
) -> Verdict:
    """The verdict on a run, with the interval where the artifact leaves open how it is computed.

    ``networks``: what the network with rounded weights answers, for a recipe that rounds them.
    """
    verdict = judge_all(references, outputs, run.outputs, labels, recipe, run.runtime, depth)
    if networks is not None:
        faithful = judge_all(networks, outputs, run.outputs, None, recipe, run.runtime, depth)
        verdict = judge_compressed(verdict, faithful, references, networks, run.outputs)
    if not run.bounds:
        return verdict
    samples = run.bounds[0].samples
    first = [reference[:samples] for reference in (references if networks is None else networks)]
    found = {b.numerics: judge_all(first, load_outputs(b.out), run.outputs, None, recipe, "") for b in run.bounds}
    overflow = next((b.overflow for b in run.bounds if b.overflow is not None), None)
    return bounded(verdict, Interval(samples, {name: one.sqnr_db for name, one in found.items()}, overflow))


def judgement(verdict: Verdict, mislabelled: str | None, origin: str) -> dict[str, object]:
    """What a verdict, and what is wrong with the labels, make of an artifact's row."""
    verdict = replace(verdict, passed=verdict.passed and mislabelled is None)
    status = "ok" if verdict.passed else "failed"
    return {"status": status, "verdict": verdict_info(verdict, origin), "error": mislabelled}


def verdict_info(verdict: Verdict, origin: str) -> VerdictInfo:
    """The verdict as the manifest has it, with what it was measured on and where."""
    return VerdictInfo(**asdict(verdict), inputs=origin, machine=machine.describe())


def carry_over(final: Path, manifest: Manifest, kept: dict[Cell, ArtifactInfo]) -> Manifest:
    """The new manifest with those artifacts of the old bundle that came from the same original."""
    if not (final / bundle.MANIFEST).exists():
        return manifest
    try:
        old = bundle.read(final).manifest
    except LvexportError:
        return manifest
    if not same_original(old, manifest):
        return manifest
    present = tuple(a for a in old.artifacts if a.path and intact(final / a.path, a.sha256))
    return manifest.model_copy(update={"artifacts": present, "golden": old.golden, "tools": old.tools | manifest.tools})


def with_artifact(manifest: Manifest, info: ArtifactInfo, plan: Plan) -> Manifest:
    """The manifest with this row in place of an earlier one for the same cell.

    An error does not displace an artifact that is good: its file stays, and so does its row.
    """
    same = [a for a in manifest.artifacts if (a.target, a.recipe) == (info.target, info.recipe)]
    if info.status == "error" and any(a.status == "ok" for a in same):
        return manifest
    rows = [*(a for a in manifest.artifacts if a not in same), info]
    order = {(c.target, c.recipe): i for i, c in enumerate(plan.cells)}
    rows.sort(key=lambda a: order.get((a.target, a.recipe), len(order)))
    return manifest.model_copy(update={"artifacts": tuple(rows)})


def add_golden(
    plan: Plan,
    manifest: Manifest,
    original: Original,
    sampled: Sample,
    references: Sequence[Array],
    networks: Mapping[str, Sequence[Array]],
    work: Path,
) -> tuple[Manifest, dict[str, Path]]:
    """Write the golden vectors; the manifest that names them, and the files to publish."""
    path, capture = work / bundle.GOLDEN, original.capture
    kept = golden.count(plan.source.imgsz, sampled.inputs.count)
    golden.write(path, sampled.inputs, capture.inputs, capture.outputs, references, sampled.labels, kept, networks)
    info = GoldenInfo(path=path.name, sha256=files.digest(path), samples=kept)
    return manifest.model_copy(update={"golden": info}), {path.name: path}
