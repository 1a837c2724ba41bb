"""The Python interface: the same work as the command line's, from a model in memory or a name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from lvexport import pipeline, verification
from lvexport.bundle import Bundle
from lvexport.jobs import Limits
from lvexport.models.provenance import Provenance, Weights
from lvexport.pipeline import Report, silent
from lvexport.plan import Plan, cells
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
    output: str | Path = "dist",
    name: str | None = None,
    samples: int | None = None,
    force: bool = False,
    timeout: float = Limits.seconds,
    report: Report = silent,
    **options: str,
) -> Bundle:
    """Convert a model to every target in every recipe, run each artifact, and leave a verified bundle.

    ``model``: what MODEL may be on the command line, or a ``torch.nn.Module`` that takes one (1, 3, imgsz, imgsz)
    image. ``to``: targets; ``quantize``: recipes; a string may name several, with commas. ``name``: the bundle's name
    for a module. ``samples``: how many images the verdict is taken over. ``timeout``: seconds for each conversion or
    run. ``options``: of the targets, such as ``min_ios="16"``. Relative paths are from the working directory.

    A failing target does not raise: see ``status``, ``error`` and ``verdict`` of ``bundle.results``, one an artifact.
    Raises :class:`lvexport.errors.UsageError` for a request that cannot be met.
    """
    chosen = cells(split(to), split(quantize), options)
    module = None if isinstance(model, str) else model
    source = (
        resolve(model, str(weights), num_classes, imgsz) if isinstance(model, str) else in_memory(model, imgsz, name)
    )
    plan = Plan(source, chosen, Path(output), samples, force, limits=Limits(timeout))
    return pipeline.export(plan, report, module)


def verify(
    path: str | Path,
    against: str | None = None,
    *,
    weights: str | Path = "auto",
    num_classes: int | None = None,
    recipe: str | None = None,
    samples: int | None = None,
) -> Bundle:
    """Run a bundle's artifacts, or one artifact, again, here, and judge them anew.

    They are compared with the bundle's golden vectors or with the model ``against``, of which ``weights`` and
    ``num_classes`` say more, over ``samples`` images. ``recipe``: the precision by which to judge an artifact that lies
    in no bundle. What is on disk is not changed; the bundle returned carries the new verdicts.
    """
    request = verification.Request(against, str(weights), num_classes, recipe, samples)
    return verification.verify(Path(path), request)


def split(names: str | Iterable[str]) -> list[str]:
    """``"a,b"`` or ``["a", "b"]`` → the names, without blanks."""
    parts = [names] if isinstance(names, str) else list(names)
    return [name.strip() for part in parts for name in part.split(",") if name.strip()]


def in_memory(model: nn.Module, imgsz: int | None, name: str | None) -> Source:
    """The source of a module that exists in this process alone."""
    provenance = getattr(model, "provenance", None)
    if isinstance(provenance, Provenance):
        source = from_provenance(provenance, provenance.name)
        weights, labels, preprocessing = source.weights, source.labels, source.preprocessing
        return Source(
            "memory",
            source.spec,
            name or source.name,
            source.imgsz if imgsz is None else imgsz,
            weights,
            source.weights_digest,
            source.num_classes,
            labels,
            preprocessing,
            layout=source.layout,
        )
    title = name or type(model).__name__.lower()
    return Source("memory", title, title, DEFAULT_IMGSZ if imgsz is None else imgsz, Weights("own", None), None)
