"""The inputs from which the ranges of activations follow: shipped images, a folder, an .npz, or arrays in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from safetensors.numpy import save_file

from lvexport import files
from lvexport.converters.contract import TensorSpec
from lvexport.errors import UsageError
from lvexport.inputs import normalisation, prepare
from lvexport.jobs import Inputs
from lvexport.source import Source
from lvexport.validation import sample
from lvexport.validation.contract import Array

SMALLEST, LARGEST = 32, 512
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".tif", ".tiff")
Given = str | Path | Iterable[Any] | None  # a folder or .npz; arrays as the model takes them; None: what ships


@dataclass(frozen=True)
class Calibration:
    """``labels``: the class of each input, where it is known. ``origin`` says what they are; ``sha256`` which."""

    inputs: Inputs
    labels: tuple[int, ...] | None
    origin: str
    sha256: str


def held(given: Given) -> Given:
    """The same, arrays kept, since they are looked at more than once."""
    return given if given is None or isinstance(given, str | Path) else list(islice(given, LARGEST))


def digest(given: Given) -> str:
    """What tells calibration inputs apart: SHA-256 of the files, or of the numbers."""
    if given is None:
        return sample.digest()
    if isinstance(given, str | Path):
        return files.digest(Path(given)) if Path(given).exists() else ""
    total = hashlib.sha256()
    for row in given:
        for array in row if isinstance(row, tuple | list) else (row,):
            total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def count_of(imgsz: int) -> int:
    """How many inputs are taken, so that large ones do not take all day."""
    return int(np.clip(round(LARGEST * (sample.FULL_SAMPLE_SIZE / max(imgsz, 1)) ** 2), SMALLEST, LARGEST))


def lay_down(source: Source, specs: Sequence[TensorSpec], given: Given, out: Path) -> Calibration:
    """Write calibration inputs as a file for cells. Raises UsageError where what was given is none."""
    most = count_of(specs[0].shape[-1] if specs[0].shape else 1)
    labels = None
    if given is None:
        drawn = prepare(source, specs, most, out, part="calibration")
        inputs, origin = drawn.inputs, drawn.origin
        labels = None if drawn.labels is None else tuple(int(label) for label in drawn.labels)
    elif isinstance(given, str | Path):
        inputs, origin = from_path(Path(given), source, specs, most, out), Path(given).name
    else:
        inputs, origin = from_memory(given, specs, out), "arrays in memory"
    return Calibration(inputs, labels, origin, files.file_digest(out))


def from_path(path: Path, source: Source, specs: Sequence[TensorSpec], most: int, out: Path) -> Inputs:
    """A folder of pictures, or an .npz with ``pixels`` (n, h, w, 3) uint8 or with the model's inputs by name."""
    if path.is_dir():
        return from_pictures(read_pictures(path, most), path, source, specs, out)
    if path.suffix != ".npz" or not path.is_file():
        raise UsageError(f"There are no calibration inputs at {path}. Name a folder of pictures, or an .npz file.")
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as arrays: {error}") from error
    if set(arrays) == {"pixels"}:
        return from_pictures(list(arrays["pixels"][:most]), path, source, specs, out)
    missing = [s.name for s in specs if s.name not in arrays]
    if missing:
        raise UsageError(
            f"{path} has the arrays {', '.join(arrays)}. Name one pixels, (n, h, w, 3) of 0 to 255, or one for each "
            f"input of the model: {', '.join(s.name for s in specs)}."
        )
    return from_arrays([np.asarray(arrays[s.name]) for s in specs], specs, out)


def read_pictures(folder: Path, most: int) -> list[Array]:
    """Up to ``most`` of the pictures below a folder, evenly from all of them in the order of their names."""
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in ENDINGS)
    if not found:
        raise UsageError(f"There is no picture in {folder}. Pictures end in {', '.join(ENDINGS)}.")
    chosen = [found[i * len(found) // min(most, len(found))] for i in range(min(most, len(found)))]
    try:
        return [np.asarray(Image.open(path).convert("RGB")) for path in chosen]
    except (OSError, UnidentifiedImageError) as error:
        raise UsageError(f"A picture of {folder} cannot be read: {error}") from error


def from_pictures(
    pictures: Sequence[Array], path: Path, source: Source, specs: Sequence[TensorSpec], out: Path
) -> Inputs:
    norm = normalisation(source, specs)
    if norm is None:
        raise UsageError(f"{source.spec} takes no RGB picture, so the pictures of {path} cannot calibrate it.")
    p = source.preprocessing
    fitted = [sample.fit(picture[None], specs[0].shape[-1], p.interpolation, p.crop_pct)[0] for picture in pictures]
    save_file({sample.PICTURES: np.stack(fitted)}, out)
    return Inputs(out, len(fitted), norm)


def from_arrays(arrays: Sequence[Array], specs: Sequence[TensorSpec], out: Path) -> Inputs:
    """``arrays``: (n, …) for each input."""
    for array, spec in zip(arrays, specs, strict=True):
        if array.shape[1:] != spec.shape[1:] or len(array) != len(arrays[0]) or not len(array):
            raise UsageError(f"Calibration inputs for {spec.name} have shape {array.shape}, not (n, {spec.shape[1:]}).")
    save_file(
        {f"{i:03}": np.ascontiguousarray(a, s.dtype) for i, (a, s) in enumerate(zip(arrays, specs, strict=True))}, out
    )
    return Inputs(out, len(arrays[0]))


def from_memory(given: Iterable[Any], specs: Sequence[TensorSpec], out: Path) -> Inputs:
    """Arrays or tensors, (n, …) as the model takes them; tuples of them where it takes several."""
    rows = [row if isinstance(row, tuple | list) else (row,) for row in islice(given, LARGEST)]
    if not rows or any(len(row) != len(specs) for row in rows):
        raise UsageError(f"Calibration has to give {len(specs)} arrays a time, and at least once.")
    return from_arrays(
        [np.concatenate([np.asarray(a) for a in column]) for column in zip(*rows, strict=True)], specs, out
    )
