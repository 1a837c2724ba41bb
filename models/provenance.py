"""Which network, with which numbers, for which size: all that can be told before anything is built."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from lvexport.models.containers import carried, check_container
from lvexport.models.errors import ModelError, WeightsError
from lvexport.models.preprocessing import Preprocessing
from lvexport.models.registry import ENTRIES, Entry, demo

RANDOM_SEED = 0


@dataclass(frozen=True)
class Weights:
    """Where a network's numbers come from.

    ``kind`` is ``demo``, ``file`` or ``random``; ``path`` is None for ``random``.
    """

    kind: str
    path: Path | None

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
    """Resolve ``auto``, ``demo``, ``random`` or a path. Reads no more than a file's first bytes.

    ``auto`` is the demo checkpoint where one ships for this network; it never means random numbers.
    """
    if weights == "random":
        return Weights("random", None)
    shipped = demo(name)
    if weights in ("auto", "demo"):
        if shipped is None:
            ships = [other for other in ENTRIES if demo(other)]
            raise WeightsError(
                f"No trained weights for {name} are here. Give a checkpoint with --weights PATH, or take a network "
                f"that ships with demo weights ({', '.join(ships) or 'none in this installation'}), or type "
                "--weights random to convert a network that has learned nothing."
            )
        return Weights("demo", shipped.weights)
    path = Path(weights)
    check_container(path)
    return Weights("file", path)


def describe(entry: Entry, weights: Weights, num_classes: int | None = None, imgsz: int | None = None) -> Provenance:
    """Everything about the network to be built that can be told without building it."""
    known = trained_for(entry, weights)
    classes = known.num_classes if num_classes is None else num_classes
    size = known.imgsz if imgsz is None else imgsz
    entry.check_size(size)
    if classes < 1:
        raise ModelError(f"A classifier has at least one class; --num-classes {classes} cannot be built.")
    if weights.kind == "demo" and classes != known.num_classes:
        raise WeightsError(
            f"The {weights.kind} checkpoint of {entry.name} knows {known.num_classes} classes, not {classes}. Leave "
            "--num-classes out, or give a checkpoint of your own with --weights PATH."
        )
    labels = known.labels if len(known.labels) == classes else ()
    return replace(known, num_classes=classes, imgsz=size, labels=labels)


def trained_for(entry: Entry, weights: Weights) -> Provenance:
    """The network as these weights were trained: as published, where they do not say otherwise."""
    published = Provenance(entry.name, weights, entry.num_classes, entry.imgsz, (), entry.preprocessing)
    if weights.kind == "demo":
        shipped = demo(entry.name)
        assert shipped is not None
        classes = shipped.classes
        return Provenance(entry.name, weights, len(classes), shipped.imgsz, classes, Preprocessing())
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
