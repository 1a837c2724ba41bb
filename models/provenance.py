"""Which network, with which numbers, for which size: all that can be told before anything is built."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from lvexport.models import hub
from lvexport.models.containers import carried, check_container
from lvexport.models.errors import Absent, ModelError, Unreachable, WeightsError
from lvexport.models.preprocessing import Preprocessing
from lvexport.models.registry import ENTRIES, SHIPPED, Entry, demo

RANDOM_SEED = 0
CHECKPOINT, PICKLED = "model.safetensors", "pytorch_model.bin"  # timm's and transformers' names on the hub, new and old


@dataclass(frozen=True)
class Weights:
    """Where a network's numbers come from.

    ``kind`` is ``demo``, ``witness``, ``hub``, ``file``, ``random`` or ``own``; ``path`` is None for ``random``.
    ``repo`` and ``revision``, a commit, name what was taken from the hub.
    """

    kind: str
    path: Path | None
    repo: str | None = None
    revision: str | None = None

    def digest(self) -> str:
        """SHA-256 of the file, or of the seed."""
        content = self.path.read_bytes() if self.path else f"seed {RANDOM_SEED}".encode()
        return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class Provenance:
    """What a built network is, for the pipeline that exports it. Kept on the module as ``provenance``.

    ``layout``: the spelling of the checkpoint, one of :mod:`lvexport.models.layouts`; None until it has been read.
    """

    name: str
    weights: Weights
    num_classes: int
    imgsz: int
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    layout: str | None = None


def choose_weights(name: str, weights: str | Path) -> Weights:
    """Resolve ``auto``, ``demo``, ``witness``, ``random`` or a path. Reads no more than a file's first bytes.

    ``auto`` is the official checkpoint, from the cache or the hub, else the demo checkpoint where one ships for this
    network; it never means random numbers.
    """
    if weights in SHIPPED:
        kind = str(weights)
        return shipped(name, kind, f"No {kind} weights ship for {name}.")
    return file_or_random(weights) or automatic(name)


def file_or_random(weights: str | Path) -> Weights | None:
    """The weights that ``random`` or a path names, or None for ``auto``. Raises WeightsError for anything else."""
    if weights == "auto":
        return None
    if weights == "random":
        return Weights("random", None)
    if weights in SHIPPED:
        raise WeightsError(
            f"{str(weights).capitalize()} weights ship for registry networks only. Leave --weights out, or give a PATH."
        )
    path = Path(weights)
    check_container(path)
    return Weights("file", path.resolve())


def automatic(name: str) -> Weights:
    """The best weights that can be had without being named."""
    repo, missing = ENTRIES[name].repo, f"No trained weights for {name} are here."
    if repo:
        try:
            return of_hub(hub.fetch(repo, CHECKPOINT, insist=demo(name) is None))
        except (Unreachable, Absent) as error:
            missing = f"{missing} {error}"
    return shipped(name, "demo", missing)


def of_hub(found: hub.Stored) -> Weights:
    return Weights("hub", found.path, found.repo, found.revision)


def shipped(name: str, kind: str, missing: str) -> Weights:
    """The checkpoint of that kind. Raises WeightsError where none ships for it: ``missing``, and what else to do."""
    checkpoint = demo(name, kind)
    if checkpoint is None:
        ships = [other for other in ENTRIES if demo(other, kind)]
        raise WeightsError(
            f"{missing} Give a checkpoint with --weights PATH, or take a network that ships with {kind} weights "
            f"({', '.join(ships) or 'none in this installation'}), or type --weights random to convert a network that "
            "has learned nothing."
        )
    return Weights(kind, checkpoint.weights)


def describe(entry: Entry, weights: Weights, num_classes: int | None = None, imgsz: int | None = None) -> Provenance:
    """Everything about the network to be built that can be told without building it."""
    known = trained_for(entry, weights)
    classes = known.num_classes if num_classes is None else num_classes
    size = known.imgsz if imgsz is None else imgsz
    entry.check_size(size)
    check_count(classes)
    if weights.kind in (*SHIPPED, "hub") and classes != known.num_classes:
        raise WeightsError(
            f"The {weights.kind} checkpoint of {entry.name} knows {known.num_classes} classes, not {classes}. Leave "
            "--num-classes out, or give a checkpoint of your own with --weights PATH."
        )
    labels = known.labels if len(known.labels) == classes else ()
    return replace(known, num_classes=classes, imgsz=size, labels=labels)


def check_count(classes: int) -> None:
    """Raise ModelError for a number of classes that no classifier has."""
    if classes < 1:
        raise ModelError(f"A classifier has at least one class; --num-classes {classes} cannot be built.")


def trained_for(entry: Entry, weights: Weights) -> Provenance:
    """The network as these weights were trained: as published, where they do not say otherwise."""
    published = Provenance(entry.name, weights, entry.num_classes, entry.imgsz, (), entry.preprocessing)
    if weights.path is None:
        return published
    found = carried(weights.path)
    if found.model in ENTRIES and found.model != entry.name:
        raise WeightsError(
            f"{weights.path} was trained as {found.model}, not as {entry.name}. Type: lvexport {found.model} --weights "
            f"{weights.path}"
        )
    return replace(
        published,
        num_classes=len(found.classes) or published.num_classes,
        imgsz=found.imgsz or published.imgsz,
        labels=found.classes,
        preprocessing=found.preprocessing or published.preprocessing,
    )
