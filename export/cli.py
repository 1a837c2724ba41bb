"""The command line. Commands parse and print; the work is done elsewhere, and loaded only once it is needed."""

from __future__ import annotations

import json as jsonlib
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Group, Parameter

import lvexport

if TYPE_CHECKING:
    from lvexport.bundle import Bundle
    from lvexport.notices import Notice
    from lvexport.overrides import Overrides

CORES = os.cpu_count() or 1

MAIN_HELP = """Turn a light vision transformer, or your own PyTorch model, into Core ML, TFLite, ExecuTorch and ONNX
artifacts, and prove on this machine that each computes what the original computes.

The main job needs no command word: lvexport MODEL --to TARGET[,TARGET…].

For example:

    lvexport mobilevit --to coreml
    lvexport mobilevit --to coreml,tflite,executorch,onnx --quantize fp32,fp16
    lvexport mobilevit_s --weights my.safetensors --to coreml --io image
    lvexport hf:apple/mobilevit-small --to tflite
    lvexport my_model.py:build --imgsz 224 --to tflite

Exit codes: 0 done and verified; 1 built but a verdict failed; 2 usage; 3 a converter or runtime failed.
"""

app = App(
    name="lvexport",
    help=MAIN_HELP,
    help_format="markdown",
    version=lambda: lvexport.__version__,
    suppress_keyboard_interrupt=False,
)
app.register_install_completion_command(name="--install-completion")

_MODEL = Group("Which model", sort_key=1)
_WHAT = Group("What to make", sort_key=2)
_HOW = Group("How", sort_key=3)
_OUTPUT = Group("What to print", sort_key=4)


@Parameter(name="*")
@dataclass(frozen=True)
class Printing:
    """What every command takes."""

    json: Annotated[bool, Parameter(group=_OUTPUT, negative=())] = False
    "Print one JSON document on standard output and nothing else there."
    quiet: Annotated[bool, Parameter(group=_OUTPUT, negative=())] = False
    "No progress on standard error."
    debug: Annotated[bool, Parameter(group=_OUTPUT, negative=())] = False
    "Show tracebacks, and what failed processes printed."


@Parameter(name="*")
@dataclass(frozen=True)
class Selection:
    """Which numbers a model has."""

    weights: Annotated[str, Parameter(group=_MODEL)] = "auto"
    "auto (the hub's, else the demo, else an error), demo, witness, random (seeded), or a checkpoint's PATH."
    num_classes: Annotated[int | None, Parameter(group=_MODEL)] = None
    "Number of classes of the checkpoint, where it is not the published 1,000."
    imgsz: Annotated[int | None, Parameter(group=_MODEL)] = None
    "Pixels a side of the input; by default what the weights were trained at."


@Parameter(name="*")
@dataclass(frozen=True)
class Pictures:
    """How pictures are prepared for a model, in place of what is known of it."""

    mean: Annotated[str | None, Parameter(group=_MODEL)] = None
    "R,G,B of full scale, taken from the pixels, in place of the model's own."
    std: Annotated[str | None, Parameter(group=_MODEL)] = None
    "R,G,B of full scale, by which the pixels are then divided, in place of the model's own."
    crop_pct: Annotated[float | None, Parameter(group=_MODEL)] = None
    "Share of the resized picture's side that is kept, in place of the model's own."
    interpolation: Annotated[str | None, Parameter(group=_MODEL)] = None
    "bilinear or bicubic, in place of the model's own."


@Parameter(name="*")
@dataclass(frozen=True)
class Labelling:
    """What the classes are called."""

    labels: Annotated[str | None, Parameter(group=_MODEL)] = None
    "FILE with a label for each class, one a line or as a JSON list, in the order of the outputs."


def said(pictures: Pictures, labelling: Labelling = Labelling()) -> Overrides:
    """What was typed of a model, checked."""
    from lvexport.overrides import read

    return read(**asdict(pictures), **asdict(labelling))


@app.command
def export(
    model: str,
    *,
    to: Annotated[str, Parameter(group=_WHAT)] = "",
    quantize: Annotated[str, Parameter(group=_WHAT)] = "fp32",
    min_ios: Annotated[str | None, Parameter(group=_WHAT, name="--min-ios")] = None,
    io: Annotated[str | None, Parameter(group=_WHAT)] = None,
    activations: Annotated[str | None, Parameter(group=_WHAT)] = None,
    selection: Selection = Selection(),
    pictures: Pictures = Pictures(),
    labelling: Labelling = Labelling(),
    output: Annotated[Path, Parameter(group=_HOW)] = Path("dist"),
    samples: Annotated[int | None, Parameter(group=_HOW)] = None,
    eval_: Annotated[str | None, Parameter(group=_HOW, name="--eval")] = None,
    optimize: Annotated[str, Parameter(group=_WHAT)] = "default",
    calib: Annotated[Path | None, Parameter(group=_WHAT)] = None,
    observer: Annotated[str, Parameter(group=_WHAT)] = "percentile",
    max_drop: Annotated[float, Parameter(group=_WHAT)] = 1.0,
    front: Annotated[int, Parameter(group=_WHAT)] = 0,
    int8_io: Annotated[bool, Parameter(group=_WHAT, negative=())] = False,
    accelerator: Annotated[str | None, Parameter(group=_WHAT)] = None,
    sram: Annotated[int | None, Parameter(group=_WHAT)] = None,
    flash: Annotated[int | None, Parameter(group=_WHAT)] = None,
    force: Annotated[bool, Parameter(group=_HOW, negative=())] = False,
    workers: Annotated[int, Parameter(group=_HOW)] = CORES,
    timeout: Annotated[float, Parameter(group=_HOW)] = 1800.0,
    memory: Annotated[float | None, Parameter(group=_HOW)] = None,
    printing: Printing = Printing(),
) -> int:
    """Convert a model, run every artifact on real images, and leave a verified bundle. Also without the word export.

    For example:

        lvexport export mobilevit --to coreml
        lvexport mobilevit --to coreml,tflite --quantize fp32,fp16 --output dist
        lvexport mobilevit_s --weights random --imgsz 256 --to onnx

    Parameters
    ----------
    model
        A name (lvexport list), a family (its smallest member), hf:ID or timm:NAME (other people's), module:factory,
        script.py:factory, or a .pt2 file.
    to
        Targets, with commas: coreml, tflite, executorch, onnx, coreai, executorch:coreml, tflm, ethos-u,
        executorch:ethos-u.
    quantize
        Recipes, with commas: fp32, fp16, w8, w4, p4, w8a8, w8a16, mixed, w4a8 (lvexport list recipes).
    min_ios
        Core ML: oldest iOS that has to load the package, 15 to 18 (17).
    io
        Core ML: tensor, or image for a picture in and a class label out (tensor).
    activations
        TFLite in w8: dynamic, layers in integers, or float, their weights alone (dynamic).
    optimize
        Rewrites for inference: default (those that measured fastest for the family), tune (measure here, which takes
        minutes to hours, and keep the result), or none.
    calib
        Folder of pictures, or an .npz file, from which the ranges of integer activations follow, and how 4-bit weights
        are rounded (images that ship).
    observer
        How they follow: percentile, mse, min-max or entropy.
    max_drop
        Points of accuracy that integers may cost; mixed and w4a8 leave as many layers in floating point as that
        needs, and w4a8 gives as many weights 4 bits as half of that allows.
    front
        With mixed and w4a8: how many other choices of layers to make and measure beside the one that keeps the budget,
        a conversion each; single precision and all layers in integers are there without (0).
    int8_io
        TFLite with integer activations: take and give 8-bit integers.
    accelerator
        Ethos-U: what to compile for, such as ethos-u55-128 (the default), ethos-u65-512 or ethos-u85-256.
    sram
        Ethos-U: KiB of SRAM that there are; a network that needs more fails, and is told which would fit.
    flash
        Ethos-U: KiB of flash that there are for the model, likewise.
    output
        Folder in which the bundle is made.
    samples
        Images that the verdict is taken over, at most 2,000; by default fewer for large inputs.
    eval_
        Measure accuracy as well, on labelled pictures: a folder with a folder for each class, or builtin, those that
        ship (lvexport eval).
    force
        Make everything anew, also what would come out the same.
    workers
        Conversions and runs at a time.
    timeout
        Seconds after which a conversion or run is ended.
    memory
        GiB of memory at which a conversion or run is ended; by default four fifths of the machine's.
    """
    from lvexport import evaluation, notices, pipeline
    from lvexport.api import split
    from lvexport.converters.contract import Budget
    from lvexport.jobs import Limits
    from lvexport.plan import Plan, cells, known_front, known_observer, known_optimize
    from lvexport.render import export_result, progress
    from lvexport.source import resolve

    positive(samples=samples, workers=workers, timeout=timeout, memory=memory, max_drop=max_drop)
    words = {"min_ios": min_ios, "io": io, "activations": activations, "accelerator": accelerator}
    given = words | {"int8_io": "yes" if int8_io else None, "sram": sram, "flash": flash}
    typed = {name: str(value) for name, value in given.items() if value is not None}
    known_word(model)
    chosen = cells(split(to), split(quantize), typed)
    overrides = said(pictures, labelling)
    hear(printing)
    source = resolve(model, selection.weights, selection.num_classes, selection.imgsz, overrides)
    limits = Limits(timeout, int((memory or 0) * 2**30), max(1, CORES // workers))
    plan = Plan(
        source,
        chosen,
        output,
        samples,
        force,
        known_optimize(optimize),
        calib,
        known_observer(observer),
        Budget(max_drop / 100),
        known_front(front),
        workers,
        limits,
    )
    asked = None if eval_ is None else evaluation.Request(eval_, workers=workers, limits=limits)
    if asked is not None:
        evaluation.check(source, asked)
    tell(notices.of_source(model, source, selection.weights, selection.num_classes), printing)
    with progress(printing.quiet or printing.json) as report:
        made = pipeline.export(plan, report)
        if asked is not None:
            made = evaluation.evaluate_made(made, source, asked, report)
    return finish(made, printing, lambda: export_result(made))


app.default(export)


def known_word(word: str) -> None:
    """Raise UsageError for a first word that is neither a model nor a command but nearly one of the commands."""
    from difflib import get_close_matches

    from lvexport.errors import UsageError
    from lvexport.models.registry import ENTRIES, families

    commands = [name for name in app if not name.startswith("-")]
    near = get_close_matches(word, [*commands, *ENTRIES, *families()], n=1)
    if word not in near and near and near[0] in commands:
        raise UsageError(f"There is no command or model named {word!r}. Did you mean {near[0]}?")


def positive(**numbers: float | None) -> None:
    """Raise UsageError for an option that has to be above zero and is not."""
    from lvexport.errors import UsageError

    for name, value in numbers.items():
        if value is not None and not value > 0:
            raise UsageError(f"--{name} has to be more than 0, not {value}.")


def hear(printing: Printing) -> None:
    """Let what takes a while before there is progress be heard on standard error."""
    if not printing.quiet:
        from lvexport.render import listen

        listen()


def tell(notices: Iterable[Notice], printing: Printing) -> None:
    """Say on standard error what the user should know."""
    from lvexport.render import warn

    if not printing.quiet:
        for notice in notices:
            warn(notice.text, notice.loud)


def finish(made: Bundle, printing: Printing, show: Any) -> int:
    """Print a bundle as JSON or as ``show`` does, and what its failed cells printed; the exit code."""
    from lvexport.bundle import document, exit_code
    from lvexport.render import logs

    if printing.json:
        print(document(made.manifest), end="")
    else:
        show()
    if printing.debug:
        logs(made)
    return exit_code(made.results)


@app.command(name="list")
def list_(
    what: Literal["models", "targets", "recipes", "rewrites"] = "models", *, printing: Printing = Printing()
) -> int:
    """List what there is: models, targets, recipes, or rewrites for inference.

    For example:

        lvexport list
        lvexport list targets --json

    Parameters
    ----------
    what
        models, targets, recipes or rewrites.
    """
    from lvexport.listing import rows
    from lvexport.render import table

    columns, found = rows(what)
    if printing.json:
        print_json([dict(zip(columns, row, strict=True)) for row in found])
    else:
        table(columns, found)
    return 0


@app.command
def info(
    subject: str,
    *,
    selection: Selection = Selection(),
    pictures: Pictures = Pictures(),
    labelling: Labelling = Labelling(),
    printing: Printing = Printing(),
) -> int:
    """Parameters, MACs, memory traffic, interface, operators and origin of a model or an artifact.

    For example:

        lvexport info mobilevit
        lvexport info some.tflite

    Parameters
    ----------
    subject
        A model, as for export, or an artifact's path.
    """
    from lvexport.informing import about_artifact, about_model
    from lvexport.render import information
    from lvexport.verification import is_artifact

    path = Path(subject)
    if is_artifact(path):
        found = about_artifact(path)
    else:
        overrides = said(pictures, labelling)
        hear(printing)
        found = about_model(subject, selection.weights, selection.num_classes, selection.imgsz, overrides)
    if printing.json:
        print_json(found.document)
    else:
        information(found)
    return 0


@app.command
def verify(
    path: Path,
    *,
    against: Annotated[str | None, Parameter(group=_HOW)] = None,
    weights: Annotated[str, Parameter(group=_HOW)] = "auto",
    num_classes: Annotated[int | None, Parameter(group=_HOW)] = None,
    recipe: Annotated[str | None, Parameter(group=_HOW)] = None,
    max_drop: Annotated[float | None, Parameter(group=_HOW)] = None,
    samples: Annotated[int | None, Parameter(group=_HOW)] = None,
    timeout: Annotated[float, Parameter(group=_HOW)] = 1800.0,
    pictures: Pictures = Pictures(),
    labelling: Labelling = Labelling(),
    printing: Printing = Printing(),
) -> int:
    """Run a bundle's artifacts again, here, and compare with its golden vectors, or with the model itself.

    For example:

        lvexport verify dist/mobilevit_xxs-demo-64
        lvexport verify my.mlpackage --against mobilevit_s --weights my.pth
        lvexport verify int8.tflite --recipe w8a8 --max-drop 1 --against my.py:build

    Parameters
    ----------
    path
        A bundle's folder, or an artifact.
    against
        Compare with this model in place of the golden vectors.
    weights
        With --against: its weights, as for export.
    num_classes
        With --against: its number of classes, as for export.
    recipe
        For an artifact without a bundle: the precision to judge it by. By default what its name says, else fp32.
    max_drop
        For an artifact without a bundle and with integers: points of accuracy that it may lose, whoever rounded it and
        how. In w8a8, w8a16, mixed and w4a8, 1 by default; else it has to hold the integers that lvexport rounds to.
    samples
        With --against: images that the verdict is taken over.
    timeout
        Seconds after which a run is ended.
    """
    from lvexport import verification
    from lvexport.jobs import Limits
    from lvexport.render import progress, verify_result

    positive(samples=samples, timeout=timeout, max_drop=max_drop)
    limits = Limits(timeout)
    request = verification.Request(
        against, weights, num_classes, recipe, samples, CORES, limits, said(pictures, labelling), max_drop
    )
    hear(printing)
    with progress(printing.quiet or printing.json) as report:
        found = verification.verify(path, request, report)
    return finish(found, printing, lambda: verify_result(found))


@app.command(name="eval")
def eval_(
    path: Path,
    *,
    data: Annotated[str, Parameter(group=_HOW)],
    limit: Annotated[int | None, Parameter(group=_HOW)] = None,
    against: Annotated[str | None, Parameter(group=_HOW)] = None,
    weights: Annotated[str | None, Parameter(group=_HOW)] = None,
    workers: Annotated[int, Parameter(group=_HOW)] = CORES,
    timeout: Annotated[float, Parameter(group=_HOW)] = 1800.0,
    printing: Printing = Printing(),
) -> int:
    """Accuracy of a bundle's artifacts on labelled pictures, each in its runtime, beside the original's.

    Top-1 and top-5 have 95 % confidence intervals; on the same pictures, the exact test of McNemar says whether the
    artifact is worse than the original beyond chance. The results are put into the bundle's manifest.

    For example:

        lvexport eval dist/mobilevit_xxs-demo-64 --data builtin
        lvexport eval dist/mobilevit_s-256 --data imagenet/val --limit 5000

    Parameters
    ----------
    path
        A bundle's folder, or an artifact in one.
    data
        A folder with a folder for each class (called by its label or number), a folder with labels.csv (file,label), an
        .npz file with pixels and labels, or builtin: the labelled sample that ships.
    limit
        Pictures at most, taken evenly from the whole.
    against
        The original, where the bundle does not say where it is to be had: a model, as for export.
    weights
        The original's weights, as for export.
    workers
        Runs at a time.
    timeout
        Seconds after which the run of a part of the pictures is ended.
    """
    from lvexport import evaluation
    from lvexport.jobs import Limits
    from lvexport.render import evaluation_result, progress

    positive(limit=limit, workers=workers, timeout=timeout)
    asked = evaluation.Request(data, limit, against, weights, workers, Limits(timeout))
    hear(printing)
    with progress(printing.quiet or printing.json) as report:
        found = evaluation.evaluate(path, asked, report)
    return finish(found, printing, lambda: evaluation_result(found))


@app.command
def bench(
    *paths: Path,
    threads: Annotated[int, Parameter(group=_HOW)] = 1,
    rounds: Annotated[int, Parameter(group=_HOW)] = 7,
    runs: Annotated[int, Parameter(group=_HOW)] = 20,
    profile: Annotated[bool, Parameter(group=_HOW, negative=())] = False,
    printing: Printing = Printing(),
) -> int:
    """Latency of artifacts on this machine, timed in turn, with their spread.

    Core ML artifacts run in the reference interpreter off macOS: their time says nothing about a phone.

    For example:

        lvexport bench dist/mobilevit_xxs-demo-64
        lvexport bench a.tflite b.tflite --rounds 15
        lvexport bench some.mlpackage --profile

    Parameters
    ----------
    paths
        Bundles' folders or artifacts. The first one is what the others are compared with.
    threads
        Threads of each runtime.
    rounds
        How often each artifact has its turn.
    runs
        Inferences in a turn; with --profile, in all.
    profile
        Where the time of one Core ML package goes: time and bytes of every operation, in the reference interpreter.
    """
    from lvexport.benching import bench as measure
    from lvexport.errors import UsageError
    from lvexport.profiling import profile as profiling
    from lvexport.render import benchmark, profiled

    positive(threads=threads, rounds=rounds, runs=runs)
    if not paths:
        raise UsageError("Nothing to time was named. Type lvexport bench BUNDLE, or one or more artifacts.")
    found: Any = profiling(paths, threads, runs) if profile else measure(list(paths), threads, rounds, runs)
    if printing.json:
        print_json(asdict(found))
    else:
        (profiled if profile else benchmark)(found)
    return 0


@app.command
def train(
    model: str,
    *,
    data: Annotated[str, Parameter(group=_WHAT)],
    start: Annotated[str | None, Parameter(group=_WHAT)] = None,
    freeze: Annotated[int, Parameter(group=_WHAT)] = 0,
    imgsz: Annotated[int | None, Parameter(group=_WHAT)] = None,
    sizes: Annotated[str, Parameter(group=_WHAT)] = "",
    epochs: Annotated[int, Parameter(group=_HOW)] = 10,
    batch: Annotated[int, Parameter(group=_HOW)] = 128,
    lr: Annotated[float, Parameter(group=_HOW)] = 2e-3,
    weight_decay: Annotated[float, Parameter(group=_HOW)] = 0.01,
    warmup: Annotated[float, Parameter(group=_HOW)] = 0.05,
    label_smoothing: Annotated[float, Parameter(group=_HOW)] = 0.1,
    ema_decay: Annotated[float, Parameter(group=_HOW)] = 0.998,
    seed: Annotated[int, Parameter(group=_HOW)] = 0,
    half: Annotated[bool, Parameter(group=_HOW, negative=())] = False,
    output: Annotated[Path | None, Parameter(group=_HOW)] = None,
    workers: Annotated[int, Parameter(group=_HOW)] = 0,
    save_every: Annotated[float, Parameter(group=_HOW)] = 60.0,
    force: Annotated[bool, Parameter(group=_HOW, negative=())] = False,
    printing: Printing = Printing(),
) -> int:
    """Train a network from the beginning, and leave a checkpoint with its card and training curve.

    A run that was killed goes on where it was when the same command is typed again, and ends with the same numbers.
    To train in several processes or on several GPUs: torchrun --nproc-per-node 2 -m lvexport train ….

    For example:

        lvexport train mobilevit_xxs --data fashion-mnist --sizes 32,64,96
        lvexport train efficientformer_l1 --data pictures --imgsz 224 --epochs 100 --workers 8

    Parameters
    ----------
    model
        A name (lvexport list) or a family (its smallest member).
    data
        fashion-mnist, collages of its items (where is the other one of the middle one's class?), or a folder with
        train/CLASS/NAME.jpg and val/CLASS/NAME.jpg.
    start
        Weights to begin with, of any classes: demo, or a checkpoint's PATH. By default random ones.
    freeze
        With --start: how many of the first stages keep those weights, and the stem with them.
    imgsz
        Pixels a side that accuracy is measured at; by default the network's own size, 64 for fashion-mnist, 96 for
        collages.
    sizes
        Pixels a side to train at, with commas. With several, each batch draws one of them, and small pictures come in
        larger batches (multi-scale sampler). By default imgsz alone.
    epochs
        How often each picture is seen.
    batch
        Pictures in a batch at the largest size.
    lr
        Learning rate at its peak.
    weight_decay
        Decay of matrices and filters.
    warmup
        Share of the training over which the learning rate rises.
    label_smoothing
        Share of the target that is spread over all classes.
    ema_decay
        Decay of the moving average of the weights, which is what is kept.
    seed
        All randomness follows from it.
    half
        Write the weights in half precision.
    output
        Folder for the checkpoint; by default runs/MODEL-IMGSZ.
    workers
        Processes that read pictures.
    save_every
        Seconds between two savings of the state in the middle.
    force
        Train anew, also where a training is finished or can be gone on with.
    """
    from lvexport import notices, training_command
    from lvexport.render import training_progress, training_result
    from lvexport.training.schedule import Schedule

    entry, chosen, side = training_command.choose(model, data, sizes, imgsz)
    positive(epochs=epochs, batch=batch, lr=lr, save_every=save_every)
    training_command.check_shares(warmup=warmup, label_smoothing=label_smoothing, ema_decay=ema_decay)
    schedule = Schedule(epochs, side, chosen, batch, lr, weight_decay, warmup, label_smoothing, ema_decay, seed)
    folder = output or Path("runs") / f"{entry.name}-{side}"
    begin = training_command.begin_with(entry.name, start, freeze)
    tell(notices.of_family(model, entry.name), printing)

    from lvexport.training.run import Request
    from lvexport.training.run import train as run

    request = Request(entry, data, schedule, folder, half, force, workers, save_every, begin, freeze)
    with training_command.stoppable(), training_progress(printing.quiet or printing.json) as (report, resuming):
        outcome = run(request, report, resuming)
    if outcome is not None and printing.json:
        print_json(outcome.card)
    elif outcome is not None:
        training_result(outcome)
    return 0


@app.command
def doctor(*, printing: Printing = Printing()) -> int:
    """What this machine can build and run, and how to get what is missing.

    For example:

        lvexport doctor
        lvexport doctor --json
    """
    from lvexport.doctor import examine
    from lvexport.render import health

    found = examine()
    if printing.json:
        print_json(asdict(found))
    else:
        health(found)
    return 0


def print_json(document: Any) -> None:
    print(jsonlib.dumps(document, indent=2, ensure_ascii=False, default=str))
