"""The inputs of one verdict, laid down once as a file that every cell reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors.numpy import save_file

from lvexport.converters.contract import Normalisation, TensorSpec
from lvexport.errors import UsageError
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


def normalisation(source: Source, specs: Sequence[TensorSpec], grey: bool = False) -> Normalisation | None:
    """How pictures become the model's input, or None where it does not take one picture at a time.

    ``grey``: whether a model of one channel takes a picture; it is not known of other numbers of that shape. Raises
    UsageError where what is said of red, green and blue says nothing of grey.
    """
    channels = specs[0].shape[1] if len(specs) == 1 and len(specs[0].shape) == 4 and specs[0].shape[0] == 1 else 0
    p = source.preprocessing
    if channels != 3 and not (grey and channels == 1):
        return None
    if channels == 1 and len({*p.mean}) + len({*p.std}) != 2:
        raise UsageError(
            f"{source.spec} takes grey pictures, for which there is one mean and one deviation; known are {p.mean} and "
            f"{p.std}. Say how they are prepared, each number three times: --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5"
        )
    return Normalisation(p.mean, p.std, p.channels)


def prepare(
    source: Source, specs: Sequence[TensorSpec], count: int, out: Path, grey: bool = False, part: str = "test"
) -> Sample:
    """Real images for a network that takes pictures; seeded numbers, and saying so, for any other.

    ``grey``: as for ``normalisation``. ``part``: of the shipped images, ``test`` or ``calibration``.
    """
    norm = normalisation(source, specs, grey)
    if norm is None:
        arrays = sample.synthetic(tuple(specs), count, seed=0 if part == "test" else 1)
        save_file({f"{i:03}": arrays[s.name] for i, s in enumerate(specs)}, out)
        return Sample(Inputs(out, count), None, "synthetic: seeded random numbers")
    pictures = sample.suited(source.labels, count, part)
    count = len(pictures.pixels)
    p = source.preprocessing
    fitted = sample.fit(pictures.pixels, specs[0].shape[-1], p.interpolation, p.crop_pct)
    colourless = specs[0].shape[1] == 1
    save_file({sample.PICTURES: sample.grey(fitted) if colourless else fitted}, out)
    labels = pictures.labels if source.labels == pictures.classes else None
    drawn = "made grey" if colourless else "dyed"
    return Sample(Inputs(out, count, norm), labels, f"real images: {pictures.name}, {part} part, {drawn}")
