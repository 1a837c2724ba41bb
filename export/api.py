"""The Python interface: the same work as the command line's, from a model in memory or a name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lvexport import evaluation, overrides, pipeline, verification
from lvexport.bundle import Bundle
from lvexport.calibration import Given, held
from lvexport.converters.contract import Budget
from lvexport.converters.quantization.settings import OBSERVER_NAMES
from lvexport.jobs import Limits
from lvexport.making import Report, silent
from lvexport.models.preprocessing import Preprocessing
from lvexport.models.provenance import Provenance, Weights
from lvexport.overrides import NOTHING_SAID, Overrides
from lvexport.plan import DEFAULT_OPTIMIZE, Plan, cells, known_front, known_observer, known_optimize
from lvexport.source import DEFAULT_IMGSZ, Source, from_provenance, resolve

if TYPE_CHECKING:
    from torch import nn


def export(
    model: str | nn.Module,
    to: str | Iterable[str],
    quantize: str | Iterable[str] = "fp32",
    *,
    imgsz: int | None = None,
    weights: str | Path = "auto",
    num_classes: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    crop_pct: float | None = None,
    interpolation: str | None = None,
    labels: str | Path | Iterable[str] | None = None,
    output: str | Path = "dist",
    name: str | None = None,
    samples: int | None = None,
    force: bool = False,
    optimize: str = DEFAULT_OPTIMIZE,
    calibration: Given = None,
    observer: str = OBSERVER_NAMES[0],
    max_drop: float = 1.0,
    front: int = 0,
    timeout: float = Limits.seconds,
    eval_data: str | Path | None = None,
    report: Report = silent,
    **options: str,
) -> Bundle:
    """Convert a model to every target in every recipe, run each artifact, and leave a verified bundle.

    ``model``: what MODEL may be on the command line, or a ``torch.nn.Module`` that takes one (1, 3, imgsz, imgsz)
    image. ``to``: targets; ``quantize``: recipes; a string may name several, with commas. ``mean`` and ``std`` (RGB, in
    units of full scale), ``crop_pct``, ``interpolation`` and ``labels`` (the labels, or a file of them) stand in place
    of what is known of the model. ``name``: the bundle's name for a module. ``samples``: how many images the verdict is
    taken over. ``optimize``: how to rewrite for inference, ``default``, ``tune`` or ``none``. ``calibration``: what the
    ranges of integer activations and the rounding of 4-bit weights follow from, a folder of pictures, an .npz, or
    arrays (n, …) as the model takes them; ``observer``: how ranges do, ``percentile``, ``mse``, ``min-max`` or
    ``entropy``. ``max_drop``: points of accuracy that integers may cost; ``front``: how many other choices of layers
    are made and measured beside that which keeps it. ``timeout``: seconds for each conversion or run. ``eval_data``:
    labelled pictures to measure accuracy on, as ``data`` for :func:`evaluate`. ``options``: of the targets, such as
    ``min_ios="16"``.
    Relative paths are from the working directory.

    A failing target does not raise: see ``status``, ``error`` and ``verdict`` of ``bundle.results``, one an artifact.
    Raises :class:`lvexport.errors.UsageError` for a request that cannot be met.
    """
    chosen = cells(split(to), split(quantize), options)
    module = None if isinstance(model, str) else model
    said = overrides.read(mean, std, crop_pct, interpolation, labels)
    if isinstance(model, str):
        source = resolve(model, str(weights), num_classes, imgsz, said)
    else:
        source = in_memory(model, imgsz, name, said)
    plan = Plan(
        source,
        chosen,
        Path(output),
        samples,
        force,
        known_optimize(optimize),
        held(calibration),
        known_observer(observer),
        Budget(max_drop / 100),
        known_front(front),
        limits=Limits(timeout),
    )
    if eval_data is None:
        return pipeline.export(plan, report, module)
    asked = evaluation.Request(eval_data, limits=plan.limits)
    evaluation.check(source, asked)
    return evaluation.evaluate_made(pipeline.export(plan, report, module), source, asked, report, module)


def evaluate(
    bundle: str | Path | Bundle,
    data: str | Path = "builtin",
    *,
    limit: int | None = None,
    against: str | None = None,
    weights: str | Path | None = None,
    timeout: float = Limits.seconds,
    report: Report = silent,
) -> Bundle:
    """Measure the accuracy of a bundle's artifacts, and of the original on the same labelled pictures.

    ``data``: a folder with a folder for each class, a folder with ``labels.csv``, an ``.npz`` file with ``pixels`` and
    ``labels``, or ``builtin``, the labelled sample that ships. ``limit``: how many pictures at most, taken evenly.
    ``against`` and ``weights``: the original, where the bundle does not say where it is to be had.

    The results are put into the bundle's manifest and are the ``evaluation`` of each of ``results`` of the bundle
    returned. Raises :class:`lvexport.errors.UsageError` for pictures that cannot be used.
    """
    path = bundle.path if isinstance(bundle, Bundle) else Path(bundle)
    named = None if weights is None else str(weights)
    request = evaluation.Request(data, limit, against, named, limits=Limits(timeout))
    return evaluation.evaluate(path, request, report)


def verify(
    path: str | Path,
    against: str | None = None,
    *,
    weights: str | Path = "auto",
    num_classes: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    crop_pct: float | None = None,
    interpolation: str | None = None,
    labels: str | Path | Iterable[str] | None = None,
    recipe: str | None = None,
    samples: int | None = None,
    max_drop: float | None = None,
) -> Bundle:
    """Run a bundle's artifacts, or one artifact, again, here, and judge them anew.

    They are compared with the bundle's golden vectors or with the model ``against``, of which ``weights`` to
    ``labels`` say more, as for :func:`export`, over ``samples`` images. ``recipe``: the precision by which to
    judge an artifact that lies in no bundle; with ``max_drop``, the points of accuracy that one with integers may lose,
    that is all that is asked of it. What is on disk is not changed; the bundle returned carries the new verdicts.
    """
    said = overrides.read(mean, std, crop_pct, interpolation, labels)
    request = verification.Request(
        against, str(weights), num_classes, recipe, samples, overrides=said, max_drop=max_drop
    )
    return verification.verify(Path(path), request)


def split(names: str | Iterable[str]) -> list[str]:
    """``"a,b"`` or ``["a", "b"]`` → the names, without blanks."""
    parts = [names] if isinstance(names, str) else list(names)
    return [name.strip() for part in parts for name in part.split(",") if name.strip()]


def in_memory(model: nn.Module, imgsz: int | None, name: str | None, said: Overrides = NOTHING_SAID) -> Source:
    """The source of a module that exists in this process alone."""
    provenance = getattr(model, "provenance", None)
    if isinstance(provenance, Provenance):
        source = from_provenance(provenance, provenance.name, said)
        size = source.imgsz if imgsz is None else imgsz
        return replace(source, kind="memory", name=name or source.name, imgsz=size, digest=None)
    title = name or type(model).__name__.lower()
    return Source(
        "memory",
        title,
        title,
        DEFAULT_IMGSZ if imgsz is None else imgsz,
        Weights("own", None),
        None,
        labels=said.labels,
        preprocessing=said.preprocessing(Preprocessing()),
        overrides=said,
    )
