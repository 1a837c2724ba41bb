"""The main job: capture once, then convert, run and judge every cell in its own processes, and bundle the results."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.numpy import load_file

from lvexport import bundle, files, front_picture, fronts, golden, machine
from lvexport.bundle import Bundle
from lvexport.calibration import Calibration, lay_down
from lvexport.compressing import Compressed, calibrated, dynamic, fitted, simulation
from lvexport.converters.contract import BUDGET, Budget, Notes, Recipe
from lvexport.converters.recipes import FP32
from lvexport.documents import describe_original, same_original, tensor_specs
from lvexport.errors import LvexportError
from lvexport.feeding import load_outputs
from lvexport.inputs import Sample, prepare
from lvexport.jobs import CAPTURE, CaptureJob, RunResult
from lvexport.making import Made, Making, Original, Report, silent
from lvexport.manifest import (
    ArtifactInfo,
    CalibrationInfo,
    DelegationInfo,
    GoldenInfo,
    Manifest,
    QuantizationInfo,
    VerdictInfo,
)
from lvexport.plan import Cell, Plan, key
from lvexport.processes import Workshop, interruptible
from lvexport.quantizing import network_of
from lvexport.source import Source
from lvexport.validation.contract import Array
from lvexport.validation.labelling import mislabelled
from lvexport.validation.verdict import (
    Interval,
    Verdict,
    blind,
    bounded,
    eased,
    judge_all,
    judge_compressed,
    judge_loss,
    with_layers,
)

if TYPE_CHECKING:
    from torch import nn


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
                return unchanged(final, kept, work)
            with interruptible(shop):
                if original is None:
                    look_ahead(shop, plan, kept)
                    original = obtain(shop, plan.source, report, model)
                if plan.source.digest is None:  # a user's own code: only the captured program tells what it is
                    plan = replace(plan, source=original.capture.source)
                    kept = reusable(final, plan, original.capture.digest)
                    if len(kept) == len(plan.cells):
                        return unchanged(final, kept, work)
                return fill(plan, shop, original, work, final, kept, report)


def look_ahead(shop: Workshop, plan: Plan, kept: Mapping[Cell, ArtifactInfo]) -> None:
    """Have the first converters imported while the original is captured, by the workers that this leaves idle."""
    wanted = longest_first(cell for cell in plan.cells if cell not in kept)
    first = {cell.target: cell.converter.modules for cell in wanted}
    for target, modules in list(first.items())[: plan.workers - 1]:
        shop.prepare(target, modules)


def longest_first(cells: Iterable[Cell]) -> list[Cell]:
    """The order in which cells are begun, so that no long one is left to the end, when other workers idle."""
    return sorted(cells, key=lambda cell: -cell.converter.seconds)


def unchanged(final: Path, kept: dict[Cell, ArtifactInfo], work: Path) -> Bundle:
    """The bundle as it is, its picture and its checksums mended where something was added to it or taken away."""
    found = bundle.read(final)
    if front_picture.is_missing(found.manifest, final):
        manifest, new = front_picture.with_picture(found.manifest, work)
        bundle.publish(final, manifest, new)
        found = replace(found, manifest=manifest)
    elif not bundle.checksums_hold(final):
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
        if artifact is None or artifact.path is None or not all((final / name).exists() for name in artifact.beside):
            continue
        if fronts.wanted(cell) and (artifact.quantization is None or artifact.quantization.front is None):
            continue  # a run was killed before it had measured that
        if intact(final / artifact.path, artifact.sha256):
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
        wanted = [cell for cell in plan.cells if cell not in kept]
        calibration = calibrate(plan, original, wanted, shop)
        beside = floats(plan, original, wanted, final)
        making = Making(plan, shop, original, sampled, calibration, simulated(plan), work, report, frozenset(beside))
        reference = pool.submit(making.reference_over_sample)
        networks = {name: pool.submit(making.rounded, cell) for name, cell in rounded_networks(plan, wanted).items()}
        pending: set[Future[Made]] = {
            pool.submit(making.make, cell, networks.get(network_of(plan, cell) or "")) for cell in longest_first(wanted)
        }
        references, searched = reference.result(), []
        rounded, layers = kept_networks(final, manifest), kept_layers(final, manifest)
        for done in networks.values():
            if not done.exception():
                rounded |= answers(done.result())
                layers |= layers_of(done.result())
        manifest, new = add_golden(plan, manifest, original, sampled, references, rounded, layers, work)
        while pending:
            finished, pending = wait(pending, return_when=FIRST_COMPLETED)
            for made in (future.result() for future in finished):
                if made.network is not None and made.network.name not in rounded:
                    rounded |= answers(made.network)
                    layers |= layers_of(made.network)
                    manifest, again = add_golden(plan, manifest, original, sampled, references, rounded, layers, work)
                    new |= again
                info = finish(made, plan, original, sampled, references, calibration)
                report(made.cell.label, info.status)
                results[made.cell] = info
                if made.log:
                    logs[made.cell.label] = made.log
                manifest = with_artifact(manifest, info, plan)
                if made.artifact is not None and info.path is not None:
                    new |= {name: made.artifact.with_name(name) for name in (info.path, *info.beside)}
                bundle.publish(final, manifest, new)
                searched += [made] if fronts.wanted(made.cell) and info.verdict is not None else []
        manifest, picture = with_fronts(making, searched, results, beside, final, references, manifest)
        if picture:
            bundle.publish(final, manifest, new | picture)
    ordered = tuple(results[cell] for cell in plan.cells)
    return Bundle(final, manifest, ordered, logs)


def floats(plan: Plan, original: Original, wanted: Sequence[Cell], final: Path) -> dict[str, Cell | ArtifactInfo]:
    """By target, where layers are chosen by search: this call's single-precision cell, or the row that is there."""
    found: dict[str, Cell | ArtifactInfo] = {}
    asked = {cell.target: cell for cell in plan.cells if cell.recipe == FP32.name}
    for cell in wanted:
        floating = fronts.floating(cell) if fronts.wanted(cell) else None
        if floating is not None and cell.target in asked:
            found[cell.target] = asked[cell.target]
        elif floating is not None:
            there = reusable(final, replace(plan, cells=(floating,)), plan.source.digest or original.capture.digest)
            found |= {floating.target: row for floating, row in there.items()}
    return found


def with_fronts(
    making: Making,
    searched: Sequence[Made],
    results: dict[Cell, ArtifactInfo],
    beside: Mapping[str, Cell | ArtifactInfo],
    final: Path,
    references: list[Array],
    manifest: Manifest,
) -> tuple[Manifest, dict[str, Path]]:
    """The manifest, and ``results``, with the fronts of artifacts whose layers were searched for, and their picture."""
    for made in searched:
        single = beside.get(made.cell.target)
        single = results.get(single) if isinstance(single, Cell) else single
        info = results[made.cell]
        assert info.quantization is not None
        front = fronts.measure(making, made, info, single, final, references)
        quantization = info.quantization.model_copy(update={"front": front})
        results[made.cell] = info.model_copy(update={"quantization": quantization})
        making.report(made.cell.label, info.status)
        manifest = with_artifact(manifest, results[made.cell], making.plan)
    return front_picture.with_picture(manifest, making.work)


def calibrate(plan: Plan, original: Original, cells: Sequence[Cell], shop: Workshop) -> Calibration | None:
    """The inputs that activations are quantized with and weights fitted over, where a cell asks for that."""
    if not any(calibrated(cell.recipe) or fitted(cell.recipe) for cell in cells):
        return None
    capture = original.capture
    return lay_down(capture.source, capture.inputs, plan.calibration, shop.folder / "calibration.safetensors")


def simulated(plan: Plan) -> frozenset[str]:
    """The networks with rounded weights of which an artifact rounds activations as they come."""
    return frozenset(
        name
        for cell in plan.cells
        if dynamic(cell.target, cell.recipe, dict(cell.options)) and (name := network_of(plan, cell)) is not None
    )


def answers(network: Compressed) -> dict[str, Sequence[Array]]:
    """What a rounded network answers, under the names that golden vectors have it by."""
    more = {} if network.dynamic is None else {simulation(network.name): network.dynamic}
    return {network.name: network.references, **more}


def layers_of(network: Compressed | None) -> dict[str, Array]:
    """What the layers of a rounded network are made of, under the names that golden vectors have it by."""
    if network is None or network.layers is None:
        return {}
    return {f"{network.name}.layer.{key}": array for key, array in load_file(network.layers).items()}


def rounded_networks(plan: Plan, wanted: Sequence[Cell]) -> dict[str, Cell]:
    """The networks with roundings that are needed, by name, each with a cell that is made from it."""
    return {name: cell for cell in wanted if (name := network_of(plan, cell)) is not None}


def kept_layers(final: Path, manifest: Manifest) -> dict[str, Array]:
    """What the golden vectors of the bundle have of the layers of those networks."""
    path, names = final / bundle.GOLDEN, [a.network for a in manifest.artifacts if a.network]
    if not names or manifest.golden is None or not intact(path, manifest.golden.sha256):
        return {}
    return {f"{name}.layer.{key}": array for name in names for key, array in golden.layers(path, name).items()}


def kept_networks(final: Path, manifest: Manifest) -> dict[str, Sequence[Array]]:
    """What the golden vectors of the bundle have of rounded networks that artifacts in it were made from."""
    path, names = final / bundle.GOLDEN, [a.network for a in manifest.artifacts if a.network]
    if not names or manifest.golden is None or not intact(path, manifest.golden.sha256):
        return {}
    return dict(golden.networks(path, tensor_specs(manifest.outputs), [*names, *map(simulation, names)]))


def finish(
    made: Made,
    plan: Plan,
    original: Original,
    sampled: Sample,
    references: list[Array],
    calibration: Calibration | None,
) -> ArtifactInfo:
    """The manifest's row for a cell, with its verdict."""
    cell = made.cell
    info = ArtifactInfo(
        target=cell.target,
        backend=cell.converter.backend,
        recipe=cell.recipe,
        options=dict(cell.options),
        route=made.notes.route if made.notes else None,
        path=made.artifact.name if made.artifact else None,
        beside=made.notes.beside if made.notes else (),
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
        network=None if made.network is None else made.network.name,
        quantization=quantization(made, plan, calibration),
        calibration=calibration_info(calibration, None) if calibration and fitted(cell.recipe) else None,
        key=key(plan, cell, plan.source.digest or original.capture.digest),
    )
    if made.run is None:
        return info
    recipe = cell.converter.recipes[cell.recipe]
    try:
        depth = original.capture.depth
        verdict = judge_run(
            references, made.outputs, made.run, sampled.labels, recipe, depth, rounded_of(made), plan.budget
        )
    except ValueError as error:
        return info.model_copy(update={"error": str(error)})
    wrong = mislabelled(original.capture.source.labels, made.run.labels) or blind(references)
    return info.model_copy(update=judgement(verdict, wrong, sampled.origin))


def rounded_of(made: Made) -> Roundings | None:
    """What the rounded network that a cell was made from answers."""
    if made.network is None:
        return None
    as_they_come = dynamic(made.cell.target, made.cell.recipe, dict(made.cell.options))
    return Roundings(made.network.references, made.network.dynamic if as_they_come else None)


def delegation(notes: Notes | None) -> DelegationInfo | None:
    """The converter's report on what a backend took, for the manifest."""
    if notes is None or notes.delegation is None:
        return None
    return DelegationInfo(**asdict(notes.delegation))


def quantization(made: Made, plan: Plan, calibration: Calibration | None) -> QuantizationInfo | None:
    """Which part of an artifact integers compute, and what their ranges follow from, for the manifest."""
    if calibration is None or made.network is None or made.network.integer is None:
        return None
    inputs = calibration_info(calibration, plan.observer)
    return QuantizationInfo(**asdict(made.network.integer), calibration=inputs)


def calibration_info(calibration: Calibration, observer: str | None) -> CalibrationInfo:
    """What calibration was, for the manifest."""
    return CalibrationInfo(
        inputs=calibration.origin, count=calibration.inputs.count, sha256=calibration.sha256, observer=observer
    )


@dataclass(frozen=True)
class Roundings:
    """What PyTorch answers with the roundings of a recipe.

    ``simulated``: with activations rounded as they come as well, for an artifact that does that.
    """

    networks: Sequence[Array]
    simulated: Sequence[Array] | None = None


def judge_run(
    references: Sequence[Array],
    outputs: Sequence[Array],
    run: RunResult,
    labels: Array | None,
    recipe: Recipe,
    depth: int,
    rounded: Roundings | None = None,
    budget: Budget = BUDGET,
    by_loss: bool = False,
) -> Verdict:
    """The verdict on a run, with the interval where the artifact leaves open how it is computed.

    ``by_loss``: nothing says how its weights were rounded, and what they cost is judged alone.
    """
    verdict = judge_all(references, outputs, run.outputs, labels, recipe, run.runtime, depth)
    if by_loss:
        verdict = judge_loss(verdict, budget)
    elif rounded is not None:
        faithful = judge_all(rounded.networks, outputs, run.outputs, None, recipe, run.runtime, depth)
        if rounded.simulated is not None:
            faithful = eased(faithful, rounded.networks, rounded.simulated, run.outputs)
        verdict = judge_compressed(verdict, faithful, references, rounded.networks, run.outputs, recipe, budget)
        verdict = with_layers(verdict, run.layers)
    if not run.bounds:
        return verdict
    samples = run.bounds[0].samples
    first = [reference[:samples] for reference in (references if rounded is None else rounded.networks)]
    found = {b.numerics: judge_all(first, load_outputs(b.out), run.outputs, None, recipe, "") for b in run.bounds}
    overflow = next((b.overflow for b in run.bounds if b.overflow is not None), None)
    return bounded(verdict, Interval(samples, {name: one.sqnr_db for name, one in found.items()}, overflow))


def judgement(verdict: Verdict, wrong: str | None, origin: str) -> dict[str, object]:
    """What a verdict, and what is wrong besides, make of an artifact's row."""
    verdict = replace(verdict, passed=verdict.passed and wrong is None)
    status = "ok" if verdict.passed else "failed"
    return {"status": status, "verdict": verdict_info(verdict, origin), "error": wrong}


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
    layers: Mapping[str, Array],
    work: Path,
) -> tuple[Manifest, dict[str, Path]]:
    """Write the golden vectors; the manifest that names them, and the files to publish."""
    path, capture = work / bundle.GOLDEN, original.capture
    kept = golden.count(plan.source.imgsz, sampled.inputs.count)
    golden.write(
        path, sampled.inputs, capture.inputs, capture.outputs, references, sampled.labels, kept, networks, layers
    )
    info = GoldenInfo(path=path.name, sha256=files.digest(path), samples=kept)
    return manifest.model_copy(update={"golden": info}), {path.name: path}
