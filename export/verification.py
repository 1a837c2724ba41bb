"""Running what is already on disk again, and comparing it with golden vectors or with an original."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from lvexport import bundle, calibration, files, golden
from lvexport.bundle import Bundle
from lvexport.compressing import Program, Rounding, calibrated, compress, dynamic, rounding, simulation
from lvexport.converters.contract import BUDGET, Budget, Recipe, TensorSpec
from lvexport.converters.recipes import RECIPES
from lvexport.converters.registry import CONVERTERS
from lvexport.documents import describe_original, manifest_normalisation, tensor_specs
from lvexport.errors import BundleError, CellError, LvexportError, NotRunError, UnknownName, UsageError
from lvexport.feeding import load_outputs
from lvexport.inputs import Sample, prepare
from lvexport.jobs import (
    CAPTURE,
    DESCRIPTION,
    RUN_RESULT,
    CaptureJob,
    DescribeJob,
    Limits,
    ReferenceJob,
    RunJob,
    RunResult,
)
from lvexport.making import Report, silent
from lvexport.manifest import ArtifactInfo, Manifest, VerdictInfo
from lvexport.overrides import NOTHING_SAID, Overrides
from lvexport.pipeline import Roundings, judge_run, judgement
from lvexport.plan import Cell, Plan, default_rewrites, ending
from lvexport.processes import Workshop, interruptible
from lvexport.source import resolve
from lvexport.validation import sample
from lvexport.validation.contract import PICTURE, Array
from lvexport.validation.labelling import mislabelled
from lvexport.validation.runtimes.registry import RUNTIMES
from lvexport.validation.verdict import blind


@dataclass(frozen=True)
class Request:
    """``against``: a MODEL in place of the golden vectors, of which ``weights``, ``num_classes`` and ``overrides`` say
    more. ``recipe``: what a lone artifact is to be judged as. ``max_drop``: points of accuracy that one with integers
    may lose where, however it was rounded, that is to be judged alone.
    """

    against: str | None = None
    weights: str = "auto"
    num_classes: int | None = None
    recipe: str | None = None
    samples: int | None = None
    workers: int = 2
    limits: Limits = Limits()
    overrides: Overrides = NOTHING_SAID
    max_drop: float | None = None

    @property
    def budget(self) -> Budget:
        return BUDGET if self.max_drop is None else Budget(self.max_drop / 100)


@dataclass(frozen=True)
class Subject:
    """What is to be verified. ``manifest`` is None for an artifact that lies in no bundle."""

    folder: Path
    manifest: Manifest | None
    artifacts: tuple[ArtifactInfo, ...]


@dataclass(frozen=True)
class Baseline:
    """The original's side of the comparison. ``depth`` is that of ``ModelInfo``; ``labels`` name its classes;
    ``family`` is that of the registry.

    ``networks``: name → what the network with rounded weights of that name answers; :func:`simulation` of it
    → with activations rounded too.
    """

    sample: Sample
    references: list[Array]
    depth: int
    labels: tuple[str, ...] = ()
    networks: Mapping[str, list[Array]] = field(default_factory=dict)
    family: str | None = None


def verify(path: Path, request: Request = Request(), report: Report = silent) -> Bundle:
    """Run every artifact of a bundle, or the one artifact that ``path`` is, and judge it anew.

    Nothing on disk is changed. The returned bundle's manifest carries the new verdicts.
    """
    if request.against is None and request.overrides != NOTHING_SAID:
        raise UsageError(
            "How pictures are prepared, and labels, can be said of the model to compare with, and none was named; the "
            "bundle has its own. Add --against MODEL, or leave these options out."
        )
    subject = locate(path, request)
    check_budget(subject, request)
    with tempfile.TemporaryDirectory(prefix="lvexport-") as scratch:
        shop = Workshop(Path(scratch), request.limits)
        with interruptible(shop):
            manifest, baseline = compare_with(subject, request, shop, report)
            with ThreadPoolExecutor(request.workers) as pool, interruptible(shop):
                checks = [
                    pool.submit(check, subject.folder, artifact, request, baseline, shop, report)
                    for artifact in subject.artifacts
                ]
                found = [done.result() for done in checks]
    results = tuple(artifact for artifact, _ in found)
    logs = {f"{artifact.target} {artifact.recipe}": log for artifact, log in found if log}
    return Bundle(subject.folder, manifest.model_copy(update={"artifacts": results}), results, logs)


def check_budget(subject: Subject, request: Request) -> None:
    """Raise UsageError where a budget was named for what has one already, or has no integers."""
    if request.max_drop is None:
        return
    if subject.manifest is not None or request.against is None:
        raise UsageError(
            "--max-drop is for an artifact that lies in no bundle, compared with --against MODEL: a bundle says itself "
            "what its artifacts may lose. Leave the option out."
        )
    (artifact,) = subject.artifacts
    if not compressed(artifact):
        with_integers = ", ".join(name for name, recipe in RECIPES.items() if recipe.weights is not None)
        raise UsageError(
            f"--max-drop is for an artifact in integers, and {artifact.path} is judged as {artifact.recipe}, which has "
            f"none. Say what it is with --recipe ({with_integers}), or leave the option out."
        )


def locate(path: Path, request: Request) -> Subject:
    """Find out whether ``path`` is a bundle, an artifact in one, or an artifact by itself."""
    if not path.exists():
        raise BundleError(f"There is nothing at {path}. Name a bundle's folder or an artifact.")
    if path.is_dir() and not is_artifact(path):
        found = bundle.read(path)
        made = tuple(a for a in found.manifest.artifacts if a.path)
        if not made:
            raise BundleError(f"{path} holds no artifacts: none could be made. Run lvexport again to see why.")
        return Subject(path, found.manifest, made)
    if (path.parent / bundle.MANIFEST).exists():
        found = bundle.read(path.parent)
        named = tuple(a for a in found.manifest.artifacts if a.path == path.name)
        if named:
            return Subject(path.parent, found.manifest, named)
    if request.against is None:
        raise UsageError(
            f"{path} lies in no bundle, so there are no golden vectors to compare it with. Name the original: "
            f"lvexport verify {path} --against MODEL"
        )
    return Subject(path.parent, None, (lone_artifact(path, request.recipe),))


def is_artifact(path: Path) -> bool:
    return any(path.name.endswith(c.suffix) for c in CONVERTERS.values())


def target_of(path: Path) -> str:
    """The target that an artifact's file name tells. Raises UsageError."""
    fitting = [c for c in CONVERTERS.values() if path.name.endswith(c.suffix)]
    named = [c for c in fitting if path.name.endswith(ending(c))]
    if fitting:
        return (named or fitting)[0].name
    suffixes = ", ".join(dict.fromkeys(c.suffix for c in CONVERTERS.values()))
    raise UsageError(f"{path} is neither a bundle nor an artifact. Artifacts end in {suffixes}.")


def lone_artifact(path: Path, recipe: str | None) -> ArtifactInfo:
    """A row for an artifact of which nothing is known but its file.

    Its recipe is the one given, else the one in its name where that is spelled as ours are, else fp32.
    """
    target = target_of(path)
    in_name = [name for name in RECIPES if f"-{name}." in path.name]
    chosen = recipe or (in_name[0] if in_name else "fp32")
    if chosen not in RECIPES:
        raise UnknownName("recipe", chosen, RECIPES)
    if chosen not in CONVERTERS[target].recipes:
        raise UsageError(f"{path} cannot be judged as {chosen}: {CONVERTERS[target].refusals[chosen]}.")
    return ArtifactInfo(
        target=target,
        backend=CONVERTERS[target].backend,
        recipe=chosen,
        options={},
        route=None,
        path=path.name,
        bytes=files.size(path),
        sha256=files.digest(path),
        seconds=0.0,
        status="not-run",
        error=None,
        verdict=None,
        remarks=(),
        key=None,
    )


def compare_with(subject: Subject, request: Request, shop: Workshop, report: Report) -> tuple[Manifest, Baseline]:
    """The manifest to answer with, and the outputs to compare with."""
    if request.against is not None:
        return against_model(subject, request, shop, report)
    assert subject.manifest is not None
    return subject.manifest, against_golden(subject, subject.manifest, shop)


def against_golden(subject: Subject, manifest: Manifest, shop: Workshop) -> Baseline:
    folder = subject.folder
    info = manifest.golden
    path = folder / bundle.GOLDEN
    if info is None or not path.exists() or files.digest(path) != info.sha256:
        raise LvexportError(
            f"The golden vectors of {folder} are missing or were changed, so there is nothing to compare with. Make "
            "the bundle again, or name the original with --against MODEL."
        )
    specs, outputs = tensor_specs(manifest.inputs), tensor_specs(manifest.outputs)
    norm = manifest_normalisation(manifest)
    inputs, references, labels = golden.unpack(path, specs, outputs, norm, shop.folder / "inputs.safetensors")
    networks = golden.networks(path, outputs, names_of_networks(subject))
    judged_by = Sample(inputs, labels, "the bundle's golden vectors")
    return Baseline(judged_by, references, manifest.model.depth, manifest.labels or (), networks)


def names_of_networks(subject: Subject) -> list[str]:
    """Under which golden vectors have what the artifacts' rounded networks answer."""
    names = dict.fromkeys(network_of(a) for a in subject.artifacts if compressed(a))
    return [*names, *map(simulation, names)]


def compressed(artifact: ArtifactInfo) -> bool:
    return RECIPES[artifact.recipe].weights is not None


def against_model(subject: Subject, request: Request, shop: Workshop, report: Report) -> tuple[Manifest, Baseline]:
    """Build the original and run it over the sample, at the size that the artifact has."""
    assert request.against is not None
    takes = () if subject.manifest else inputs_of(subject, shop)
    imgsz = size_in_manifest(subject.manifest) if subject.manifest else size_of(takes)
    own_size = request.against.endswith(".pt2")
    source = resolve(
        request.against, request.weights, request.num_classes, None if own_size else imgsz, request.overrides
    )
    if source.kind in ("script", "factory") and all(spec.shape for spec in takes):
        source = replace(source, takes=tuple(map(as_the_original_takes, takes)))
    report("original", "running")
    program = shop.folder / "program.pt2"
    capture = CAPTURE.validate_python(shop.do(CaptureJob(source, program)))
    count = request.samples or sample.size_of(imgsz or 1)
    grey = any(spec.dtype == PICTURE and len(spec.shape) == 2 for spec in takes)
    laid_down = shop.folder / "inputs.safetensors"
    sampled = prepare(capture.source, capture.inputs, min(count, sample.LARGEST), laid_down, grey)
    out = shop.folder / "reference.safetensors"
    shop.do(ReferenceJob(capture.source, sampled.inputs, out, capture.state_digest))
    networks: dict[str, list[Array]] = {}
    for name, (of, as_they_come) in roundings_of(subject, request, capture.source.family).items():
        given = None
        if of.calibration is not None:
            given = calibration.lay_down(
                capture.source, capture.inputs, None, shop.folder / "calibration.safetensors"
            ).inputs
        found = compress(shop, Program(program, capture.source), of, given, sampled, as_they_come)
        networks[name] = found.references
        networks |= {} if found.dynamic is None else {simulation(name): found.dynamic}
    report("original", "done")
    manifest = subject.manifest or describe_original(Plan(source, (), subject.folder), capture)
    origin = f"{sampled.origin}, against {request.against}"
    judged_by = Sample(sampled.inputs, sampled.labels, origin)
    own, family = load_outputs(out), capture.source.family
    return manifest, Baseline(judged_by, own, capture.depth, capture.source.labels, networks, family)


def by_loss(artifact: ArtifactInfo, request: Request) -> bool:
    """Whether what rounding cost an artifact is judged alone: nothing says how it was rounded, or nothing need be."""
    if artifact.network is not None or request.against is None or not compressed(artifact):
        return False
    return request.max_drop is not None or calibrated(artifact.recipe)


def roundings_of(subject: Subject, request: Request, family: str | None) -> dict[str, tuple[Rounding, bool]]:
    """Of each network: how weights were rounded, and whether an artifact of it rounds activations as they come."""
    found: dict[str, tuple[Rounding, bool]] = {}
    for a in (a for a in subject.artifacts if not by_loss(a, request)):
        of, name = rounding_of(a, family), network_of(a, family)
        if of is not None and (of.calibration is None or of.name == name):
            others = name in found and found[name][1]
            found[name] = of, others or dynamic(a.target, a.recipe, a.options)
    return found


def rounding_of(artifact: ArtifactInfo, family: str | None) -> Rounding | None:
    """How its weights were rounded: as its manifest says or, where it has none, as they are by default."""
    if artifact.network is None:
        rewrites = default_rewrites(Cell(artifact.target, artifact.recipe, ()), family)
    else:
        rewrites = artifact.rewrites
    return rounding(artifact.target, artifact.recipe, rewrites, calibration.digest(None))


def network_of(artifact: ArtifactInfo, family: str | None = None) -> str:
    """The name of the rounded network that an artifact was made from."""
    of = None if artifact.network else rounding_of(artifact, family)
    return artifact.network or (artifact.recipe if of is None else of.name)


def size_in_manifest(manifest: Manifest) -> int:
    return manifest.input.shape[-1]


def inputs_of(subject: Subject, shop: Workshop) -> tuple[TensorSpec, ...]:
    """What the one artifact takes."""
    (artifact,) = subject.artifacts
    assert artifact.path is not None
    answer: Any = shop.do(DescribeJob(artifact.target, subject.folder / artifact.path))
    return DESCRIPTION.validate_python(answer).inputs


def size_of(takes: Sequence[TensorSpec]) -> int | None:
    """Pixels a side of an artifact's first input, or None where it takes no image."""
    if not takes:
        return None
    first = takes[0]
    if first.dtype == PICTURE:
        return first.shape[0] if first.shape else None
    return first.shape[-1] if len(first.shape) == 4 else None


def as_the_original_takes(spec: TensorSpec) -> TensorSpec:
    """An artifact's input as a module of torch takes it: pictures as tensors, and no half precision."""
    if spec.dtype == PICTURE:
        height, width, channels = (*spec.shape, 1)[:3]
        return TensorSpec(spec.name, (1, channels, height, width), "float32")
    return replace(spec, dtype="float32") if spec.dtype == "float16" else spec


def check(
    folder: Path, artifact: ArtifactInfo, request: Request, baseline: Baseline, shop: Workshop, report: Report
) -> tuple[ArtifactInfo, str]:
    """The artifact's row with what was found now, and what its process printed where that failed."""
    label, log = f"{artifact.target} {artifact.recipe}", ""
    report(label, "running")
    try:
        done = examine(folder, artifact, request, baseline, shop)
    except NotRunError as error:
        done = outcome(artifact, "not-run", error=str(error))
    except (LvexportError, ValueError) as error:
        done = outcome(artifact, "error", error=f"running failed: {error}")
        log = error.log if isinstance(error, CellError) else ""
    report(label, done.status)
    return done, log


def examine(folder: Path, artifact: ArtifactInfo, request: Request, baseline: Baseline, shop: Workshop) -> ArtifactInfo:
    """Run the artifact and judge it. Raises what stands in the way."""
    assert artifact.path is not None
    path = folder / artifact.path
    problem = None if request.against is not None else damage(folder, artifact)
    if problem is not None:
        return outcome(artifact, "error", error=problem)
    available = RUNTIMES[artifact.target].available()
    if not available.here:
        return outcome(artifact, "not-run", error=available.reason)
    out = shop.folder / f"{artifact.path}.outputs"
    layers = None if request.against else layers_of(folder, artifact, shop)
    job = RunJob(artifact.target, path, baseline.sample.inputs, out, layers=layers)
    run = RUN_RESULT.validate_python(shop.do(job))
    return judged(artifact, run, load_outputs(out), baseline, request)


def layers_of(folder: Path, artifact: ArtifactInfo, shop: Workshop) -> Path | None:
    """A file of what the layers of the artifact's rounded network are made of, where the golden vectors have that."""
    golden_file = folder / bundle.GOLDEN
    known = golden.layers(golden_file, artifact.network) if artifact.network and golden_file.exists() else {}
    if not known:
        return None
    out = shop.folder / f"{artifact.path}.layers"
    save_file(known, out)
    return out


def judged(
    artifact: ArtifactInfo, run: RunResult, outputs: Sequence[Array], baseline: Baseline, request: Request
) -> ArtifactInfo:
    recipe, labels = CONVERTERS[artifact.target].recipes[artifact.recipe], baseline.sample.labels
    alone = by_loss(artifact, request)
    rounded = None if alone else rounded_as(artifact, recipe, baseline)
    references, depth = baseline.references, baseline.depth
    verdict = judge_run(references, outputs, run, labels, recipe, depth, rounded, request.budget, alone)
    wrong = mislabelled(baseline.labels, run.labels) or overspent(artifact.verdict) or blind(references)
    return artifact.model_copy(update=judgement(verdict, wrong, baseline.sample.origin))


def rounded_as(artifact: ArtifactInfo, recipe: Recipe, baseline: Baseline) -> Roundings | None:
    """What the rounded network answers that an artifact was made from; None where none was."""
    name = network_of(artifact, baseline.family)
    networks = baseline.networks.get(name)
    if networks is None and (recipe.activations is not None or recipe.fitted):
        raise LvexportError(
            f"what {artifact.recipe} rounds follows from calibration, which the model to compare with does not tell. "
            "Verify the artifact in its bundle, whose golden vectors do"
        )
    if recipe.weights is not None and networks is None:
        raise LvexportError(
            f"the golden vectors have no outputs for {artifact.recipe}. Make the bundle again, or name the original "
            "with --against MODEL"
        )
    as_they_come = dynamic(artifact.target, artifact.recipe, artifact.options)
    simulated = baseline.networks.get(simulation(name)) if as_they_come else None
    return None if networks is None else Roundings(networks, simulated)


def overspent(made: VerdictInfo | None) -> str | None:
    """What the verdict of the export says of a budget that was not kept.

    It holds for an artifact that computes what it should: golden vectors are too few to show what rounding costs.
    """
    if made is None or made.compression is None or made.compression.within_budget:
        return None
    return (
        f"its rounded weights lost too much when it was made: over {made.samples:,} inputs, retrieval agreement "
        f"{made.retrieval_agreement:.2%}"
    )


def outcome(artifact: ArtifactInfo, status: str, **found: object) -> ArtifactInfo:
    """The row with a new status; what an earlier run found is taken out of it."""
    return artifact.model_copy(update={"error": None, "verdict": None, "status": status, **found})


def damage(folder: Path, artifact: ArtifactInfo) -> str | None:
    """What is wrong with the artifact's bytes, judged by the manifest and by SHA256SUMS; None where they are intact."""
    assert artifact.path is not None
    path = folder / artifact.path
    if not path.exists():
        return f"{artifact.path} is missing. Make the bundle again with lvexport MODEL --to {artifact.target}"
    if files.digest(path) == artifact.sha256:
        return None
    recorded = bundle.recorded_checksums(folder)
    names = {p: p.relative_to(folder).as_posix() for p in files.files_under(path)}
    if names and all(recorded.get(name) == files.file_digest(p) for p, name in names.items()):
        return None
    return (
        f"{artifact.path} is not the file that was verified: its bytes differ from the recorded SHA-256, so it was "
        f"damaged or changed. Make it again, or judge it as it is with lvexport verify {path} --against MODEL"
    )
