"""The inputs of one verdict, laid down once as a file that every cell reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors.numpy import save_file

from lvexport.converters.contract import Normalisation, TensorSpec
from lvexport.golden import PICTURES
from lvexport.jobs import Inputs
from lvexport.source import Source
from lvexport.validation import sample
from lvexport.validation.contract import Array


@dataclass(frozen=True)
class Sample:
    """``labels`` are there where the network's classes are the sample's. ``origin`` says what the inputs are."""

    inputs: Inputs
    labels: Array | None
    origin: str


def normalisation(source: Source, specs: Sequence[TensorSpec]) -> Normalisation | None:
    """How pictures become the model's input, or None where it does not take one picture at a time."""
    if len(specs) == 1 and len(specs[0].shape) == 4 and specs[0].shape[:2] == (1, 3):
        p = source.preprocessing
        return Normalisation(p.mean, p.std, p.channels)
    return None


def prepare(source: Source, specs: Sequence[TensorSpec], count: int, out: Path) -> Sample:
    """Real images for a network that takes RGB pictures; seeded numbers, and saying so, for any other."""
    norm = normalisation(source, specs)
    if norm is None:
        arrays = sample.synthetic(tuple(specs), count)
        save_file({f"{i:03}": arrays[s.name] for i, s in enumerate(specs)}, out)
        return Sample(Inputs(out, count), None, "synthetic: seeded random numbers")
    pictures = sample.shipped(count)
    p = source.preprocessing
    save_file({PICTURES: sample.fit(pictures.pixels, specs[0].shape[-1], p.interpolation, p.crop_pct)}, out)
    labels = pictures.labels if source.labels == pictures.classes else None
    return Sample(Inputs(out, count, norm), labels, "real images: Fashion-MNIST, test part, dyed")
