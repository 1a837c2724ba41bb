"""Accuracy on labelled pictures: the artifacts of a bundle and their original on the same ones, each in its runtime."""

from __future__ import annotations

import hashlib
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import save_file

from lvexport import bundle, machine
from lvexport.bundle import Bundle
from lvexport.converters.contract import Normalisation
from lvexport.documents import manifest_normalisation
from lvexport.errors import BundleError, CellError, LvexportError, NotRunError, OutputError, UsageError
from lvexport.feeding import load_outputs
from lvexport.files import remove
from lvexport.jobs import RUN_RESULT, Inputs, Limits, ReferenceJob, RunJob
from lvexport.labelled import Labelled, Picture, open_data
from lvexport.making import Report, silent
from lvexport.manifest import ArtifactInfo, EvaluationInfo, Manifest, Resize
from lvexport.models.registry import ENTRIES, SHIPPED, families
from lvexport.processes import Workshop, interruptible
from lvexport.source import Source, resolve
from lvexport.validation import sample
from lvexport.validation.accuracy import BEST, Tally, count, wilson
from lvexport.validation.contract import Array
from lvexport.validation.runtimes.registry import RUNTIMES
from lvexport.verification import Request as Verification
from lvexport.verification import Subject, damage, is_artifact, locate

if TYPE_CHECKING:
    from torch import nn

# Pictures are laid down in parts that grow, so that the first figures come soon and starting processes costs little
# after that. No part is larger than LARGEST pictures or BYTES, whatever the number of all.
FIRST, LARGEST = 256, 4096
BYTES = 2**27
log = logging.getLogger("lvexport")
Original = Callable[[Inputs, Path], object]  # runs the original over inputs and writes its outputs


@dataclass(frozen=True)
class Request:
    """``data`` and ``limit`` as for ``labelled.open_data``. ``against``, ``weights``: the original of a bundle that
    does not say where to get it.
    """

    data: str | Path
    limit: int | None = None
    against: str | None = None
    weights: str | None = None
    workers: int = 2
    limits: Limits = Limits()


@dataclass(frozen=True)
class Part:
    """Some of the pictures, laid down for cells, and their labels (n,)."""

    inputs: Inputs
    labels: Array


@dataclass(frozen=True)
class Standing:
    """How an artifact stands after some parts: what was counted, in which runtime, and what ended it, if anything."""

    artifact: ArtifactInfo
    tally: Tally = Tally()
    runtime: str = ""
    status: str = "ok"
    error: str | None = None
    log: str = ""


def evaluate(path: Path, request: Request, report: Report = silent) -> Bundle:
    """Measure the accuracy of a bundle's artifacts, or of the one in a bundle that ``path`` is, and of the original.

    The results are put into the bundle's manifest. Raises UsageError for pictures or a bundle that cannot be used.
    """
    if is_artifact(path) and not (path.parent / bundle.MANIFEST).exists():
        raise UsageError(
            f"{path} lies in no bundle, and accuracy is measured beside that of the original, which a bundle names. "
            "Name a bundle's folder or an artifact in one."
        )
    subject = locate(path.resolve(), Verification())
    assert subject.manifest is not None
    data = pictures_for(subject.manifest, request)
    source = original_of(subject.manifest, request)
    digest = None if source.weights_digest else subject.manifest.model.weights.sha256
    with tempfile.TemporaryDirectory(prefix="lvexport-") as scratch:
        shop = Workshop(Path(scratch), request.limits)
        return measure(subject, data, partial(run_original, shop, source, digest), shop, request, report)


def check(source: Source, request: Request) -> None:
    """Raise UsageError for pictures that do not suit, where the classes are known before anything is built."""
    if source.num_classes is not None:
        open_data(request.data, source.labels, source.num_classes, request.limit)


def evaluate_made(
    made: Bundle, source: Source, request: Request, report: Report = silent, model: nn.Module | None = None
) -> Bundle:
    """The same for what an export has just made, of which the original is at hand: ``model`` where it is an object."""
    rows = tuple(a for a in made.results if a.path is not None and a.status != "not-run")
    data = pictures_for(made.manifest, request)
    with tempfile.TemporaryDirectory(prefix="lvexport-") as scratch:
        shop = Workshop(Path(scratch), request.limits)
        original = partial(run_original, shop, source, None) if model is None else partial(run_module, model)
        subject = Subject(made.path, made.manifest, rows)
        found = measure(subject, data, original, shop, request, report)
    new = {row.path: row for row in found.results}
    requested = tuple(new.get(row.path, row) for row in made.results)
    return Bundle(made.path, found.manifest, requested, {**made.logs, **found.logs})


def pictures_for(manifest: Manifest, request: Request) -> Labelled:
    """The labelled pictures. Raises UsageError where the network is no classifier of pictures, or they do not suit."""
    outputs = manifest.outputs[0].shape
    if manifest.input.resize is None or len(outputs) != 2 or outputs[1] < 2:
        raise UsageError(
            f"{manifest.model.name} takes {manifest.input.shape} and gives {outputs}. Accuracy is measured on "
            "classifiers that take one RGB picture and give a number for each class."
        )
    return open_data(request.data, manifest.labels or (), outputs[1], request.limit)


def original_of(manifest: Manifest, request: Request) -> Source:
    """What the bundle was made from. Raises UsageError where the manifest does not say, or another was named."""
    weights = manifest.model.weights
    shipped = weights.kind in (*SHIPPED, "random")
    if not (shipped or weights.kind == "hub" or request.against or request.weights):
        raise UsageError(
            f"The bundle was made from weights of your own ({weights.path or manifest.model.source}) and does not hold "
            "the original to compare with. Name it as it was exported: --against MODEL, and --weights PATH."
        )
    spec = request.against or manifest.model.source
    named = request.weights or (weights.kind if shipped and request.against is None else "auto")
    known = families().get(spec, spec) in ENTRIES
    classes = manifest.outputs[0].shape[1] if known else None
    source = resolve(spec, named, classes, None if spec.endswith(".pt2") else manifest.input.shape[-1])
    if source.weights_digest not in (None, weights.sha256):
        raise UsageError(
            f"The bundle was made from other weights than {spec} has now: their SHA-256 begins with "
            f"{(weights.sha256 or '')[:12]} there and with {(source.weights_digest or '')[:12]} here. Name the "
            "original with --against MODEL and --weights PATH, or make the bundle again."
        )
    return source


def run_original(shop: Workshop, source: Source, digest: str | None, inputs: Inputs, out: Path) -> None:
    shop.do(ReferenceJob(source, inputs, out, digest))


def run_module(model: nn.Module, inputs: Inputs, out: Path) -> None:
    from lvexport import capture

    capture.evaluate(model, inputs, out)


def measure(
    subject: Subject, data: Labelled, original: Original, shop: Workshop, request: Request, report: Report
) -> Bundle:
    """Run everything over all pictures, part by part, and record what was counted."""
    assert subject.manifest is not None
    resize, norm = subject.manifest.input.resize, manifest_normalisation(subject.manifest)
    assert resize is not None
    assert norm is not None
    standings = [fit_to_run(subject.folder, artifact) for artifact in subject.artifacts]
    digest, start, done = hashlib.sha256(), time.monotonic(), 0
    report("accuracy", f"0 of {data.count:,} images")
    with interruptible(shop), ThreadPoolExecutor(request.workers) as pool, interruptible(shop):
        for part in parts(data, resize, norm, shop.folder, digest.update):
            reference = shop.folder / "reference.safetensors"
            answered = pool.submit(original, part.inputs, reference)
            runs = [pool.submit(run_artifact, shop, subject.folder, one, part) for one in standings]
            answered.result()
            references = load_outputs(reference)[0]
            standings = [counted(run.result(), references, part, shop.folder) for run in runs]
            done += part.inputs.count
            report("accuracy", progress(done, data.count, time.monotonic() - start))
    report("accuracy", "done")
    classes = subject.manifest.outputs[0].shape[1]
    found = [row(one, classes, data.name, digest.hexdigest()) for one in standings]
    manifest = record(subject.folder, subject.manifest, found)
    logs = {f"{one.artifact.target} {one.artifact.recipe}": one.log for one in standings if one.log}
    return Bundle(subject.folder, manifest, tuple(found), logs)


def progress(done: int, of: int, seconds: float) -> str:
    left = seconds / done * (of - done)
    ahead = f"about {left:.0f} s left" if left < 120 else f"about {left / 60:.0f} min left"
    return f"{done:,} of {of:,} images" + (f", {ahead}" if done < of else "")


def parts(
    data: Labelled, resize: Resize, norm: Normalisation, folder: Path, update: Callable[[bytes], object]
) -> Iterator[Part]:
    """The pictures, prepared and laid down part by part, each in the place of the one before.

    ``update`` is given what the digest of the data is over: for each picture its label, four bytes, and its own bytes.
    """
    pictures, size = data.read(), FIRST
    most = max(4, min(LARGEST, BYTES // (3 * resize.imgsz**2)))
    while taken := [prepared(one, resize, update) for one in islice(pictures, min(size, most))]:
        path = folder / "pictures.safetensors"
        save_file({sample.PICTURES: np.stack([pixels for pixels, _ in taken])}, path)
        yield Part(Inputs(path, len(taken), norm), np.array([label for _, label in taken]))
        size *= 2


def prepared(picture: Picture, resize: Resize, update: Callable[[bytes], object]) -> tuple[Array, int]:
    """(imgsz, imgsz, 3) uint8 as the model's preprocessing has it, and the label."""
    update(picture.label.to_bytes(4, "little"))
    update(picture.stored)
    fitted = sample.fit(picture.pixels[None], resize.imgsz, resize.interpolation, resize.crop_pct)
    return fitted[0], picture.label


def fit_to_run(folder: Path, artifact: ArtifactInfo) -> Standing:
    """Where an artifact stands at first: out, where its bytes are not the verified ones or nothing here runs it."""
    if problem := damage(folder, artifact):
        return Standing(artifact, status="error", error=problem)
    available = RUNTIMES[artifact.target].available()
    if not available.here:
        return Standing(artifact, status="not-run", error=available.reason)
    return Standing(artifact)


def run_artifact(shop: Workshop, folder: Path, one: Standing, part: Part) -> Standing:
    """Run an artifact that is still in over a part; its outputs lie beside the pictures then."""
    if one.error is not None:
        return one
    artifact = one.artifact
    assert artifact.path is not None
    try:
        job = RunJob(artifact.target, folder / artifact.path, part.inputs, outputs_of(one, shop.folder), bounds=False)
        return replace(one, runtime=RUN_RESULT.validate_python(shop.do(job)).runtime)
    except NotRunError as error:
        return replace(one, status="not-run", error=str(error))
    except LvexportError as error:
        printed = error.log if isinstance(error, CellError) else ""
        return replace(one, status="error", error=f"running failed: {error}", log=printed)


def outputs_of(one: Standing, scratch: Path) -> Path:
    return scratch / f"{one.artifact.path}.outputs"


def counted(one: Standing, references: Array, part: Part, scratch: Path) -> Standing:
    """What stands after a part that was run."""
    if one.error is not None:
        return one
    path = outputs_of(one, scratch)
    measured = load_outputs(path)[0]
    remove(path)
    if measured.shape != references.shape:
        wrong = f"its outputs have the shape {measured.shape[1:]}, the original's {references.shape[1:]}"
        return replace(one, status="error", error=wrong)
    return replace(one, tally=one.tally + count(references, measured, part.labels))


def row(one: Standing, classes: int, data: str, digest: str) -> ArtifactInfo:
    """The artifact's row with what was found; one that could not be run has no evaluation and says why."""
    if one.error is not None:
        return one.artifact.model_copy(update={"status": one.status, "error": one.error, "evaluation": None})
    return one.artifact.model_copy(update={"evaluation": describe(one, classes, data, digest)})


def describe(one: Standing, classes: int, data: str, digest: str) -> EvaluationInfo:
    """What was counted, as the manifest has it."""
    t = one.tally
    ranked = classes > BEST  # else every class is among the first five
    return EvaluationInfo(
        data=data,
        sha256=digest,
        images=t.images,
        top1=t.top1 / t.images,
        top1_interval=wilson(t.top1, t.images),
        top5=t.top5 / t.images if ranked else None,
        top5_interval=wilson(t.top5, t.images) if ranked else None,
        original_top1=t.original_top1 / t.images,
        original_top1_interval=wilson(t.original_top1, t.images),
        original_top5=t.original_top5 / t.images if ranked else None,
        original_top5_interval=wilson(t.original_top5, t.images) if ranked else None,
        only_original=t.only_original,
        only_artifact=t.only_artifact,
        p_value=t.p_value,
        runtime=one.runtime,
        machine=machine.describe(),
    )


def record(folder: Path, known: Manifest, found: Sequence[ArtifactInfo]) -> Manifest:
    """Put the evaluations into the bundle's manifest, as it is by now; the manifest with them.

    A bundle that cannot be written stays as it is: what was measured is in the manifest returned all the same.
    """
    new = {(a.path, a.sha256): a.evaluation for a in found if a.evaluation is not None}
    try:
        with bundle.workspace(folder):
            manifest = with_evaluations(bundle.read(folder).manifest, new)
            bundle.publish(folder, manifest, {})
            return manifest
    except (OutputError, BundleError, OSError) as error:
        log.warning("The result is not put into the manifest of %s: %s", folder, error)
        return with_evaluations(known, new)


def with_evaluations(
    manifest: Manifest, new: Mapping[tuple[str | None, str | None], EvaluationInfo | None]
) -> Manifest:
    rows = (a.model_copy(update={"evaluation": new.get((a.path, a.sha256), a.evaluation)}) for a in manifest.artifacts)
    return manifest.model_copy(update={"artifacts": tuple(rows)})
