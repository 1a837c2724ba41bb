"""What the command line says unasked: choices that it made on the user's behalf, and what a checkpoint is worth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lvexport.models.registry import ENTRIES, SHIPPED

if TYPE_CHECKING:
    from lvexport.source import Source


@dataclass(frozen=True)
class Notice:
    """``loud``: not to be overlooked."""

    text: str
    loud: bool = False


def of_family(typed: str, taken: str) -> Iterator[Notice]:
    """Which network stands for a family."""
    if typed != taken:
        yield Notice(f"{typed} is a family; taking its smallest member, {taken}.")


def of_source(typed: str, source: Source, weights: str, num_classes: int | None) -> Iterator[Notice]:
    """What was made of a typed model, ``--weights`` and ``--num-classes``."""
    if source.kind == "registry":
        yield from of_family(typed, source.name)
    yield from of_weights(source, weights)
    yield from of_classes(source, num_classes)


def of_weights(source: Source, typed: str) -> Iterator[Notice]:
    """Where the weights are from, where they were not named."""
    if source.weights.kind == "demo":
        repo = ENTRIES[source.name].repo
        why = f" The official ones, {repo}, could not be had." if typed == "auto" and repo else ""
        yield Notice(
            f"DEMO WEIGHTS: {source.name} with {source.num_classes} classes of clothing, trained on Fashion-MNIST. "
            f"Good for trying things out, not for use.{why} Give your own with --weights PATH.",
            loud=True,
        )
    if source.weights.kind == "witness":
        yield Notice(
            f"WITNESS WEIGHTS: {source.name} trained to find, in a collage of nine items of clothing, the only other "
            "item of the middle one's class. Good for seeing what an artifact has lost, and for nothing else.",
            loud=True,
        )
    if source.weights.repo is not None:
        yield Notice(f"{source.name} from {source.weights.repo}, commit {source.weights.revision}.")
    if source.weights.kind == "random":
        yield Notice("RANDOM WEIGHTS: the artifacts compute what the original computes, and that is noise.", loud=True)


def of_classes(source: Source, typed: int | None) -> Iterator[Notice]:
    """Where a registry network is not the published one, and who says so."""
    if source.kind != "registry" or source.weights.kind in SHIPPED:
        return
    published = ENTRIES[source.name].num_classes
    if source.num_classes != published:
        teller = "its checkpoint" if typed is None else "--num-classes"
        yield Notice(f"{source.name} with {source.num_classes} classes, as {teller} says; published: {published:,}.")
