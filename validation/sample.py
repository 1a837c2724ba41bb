"""The inputs that artifacts are verified with: the real images that ship with the project."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open

from lvexport.converters.contract import Normalisation, TensorSpec
from lvexport.validation.contract import Array

PICTURES = "pictures"  # what they are called in the files that inputs are laid down in
SHIPPED = Path(__file__).parent / "samples" / "fashion_mnist.safetensors"
# What images collages are made of, and where in each of them the one is that is asked for (training/collages.py).
COLLAGES = SHIPPED.with_name("collages.safetensors")
LARGEST = 2000
SMALLEST = 200
# Pixels a side up to which the whole sample is run; above it, as many images as have that many pixels together.
FULL_SAMPLE_SIZE = 64

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Pictures:
    """``pixels``: (n, h, w, 3) uint8 RGB. ``labels``: (n,) indices into ``classes``. ``name``: what they are."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    name: str = "Fashion-MNIST"


def size_of(imgsz: int) -> int:
    """How many images a verdict is taken over by default, so that large inputs do not take all day."""
    return int(np.clip(round(LARGEST * (FULL_SAMPLE_SIZE / imgsz) ** 2), SMALLEST, LARGEST))


def shipped(count: int, part: str = "test") -> Pictures:
    """The first ``count`` images of the shipped ``test`` or ``calibration`` part, dyed as the file says.

    A grey picture has three equal channels, and swapping them would go unseen; hence a factor a channel and image.
    """
    with safe_open(SHIPPED, framework="numpy") as file:
        grey = file.get_tensor(f"{part}.pixels")[:count].astype(np.uint16)
        dye = file.get_tensor(f"{part}.dye")[:count].astype(np.uint16)
        labels = file.get_tensor(f"{part}.labels")[:count].astype(np.int64)
        classes = tuple(json.loads(file.metadata()["classes"]))
    pixels = ((grey[..., None] * dye[:, None, None, :] + 127) // 255).astype(np.uint8)
    return Pictures(pixels, labels, classes)


def collages(count: int, part: str = "test") -> Pictures:
    """The first ``count`` collages, (n, 84, 84, 3), of nine images of that part; a label is the place of the answer."""
    with safe_open(COLLAGES, framework="numpy") as file:
        cells = file.get_tensor(f"{part}.cells")[:count].astype(np.int64)
        labels = file.get_tensor(f"{part}.answers")[:count].astype(np.int64)
        classes = tuple(json.loads(file.metadata()["classes"]))
    items = shipped(LARGEST, part).pixels
    side, grid = items.shape[1], round(cells.shape[1] ** 0.5)
    tiles = items[cells].reshape(len(cells), grid, grid, side, side, 3)
    pixels = tiles.transpose(0, 1, 3, 2, 4, 5).reshape(len(cells), grid * side, grid * side, 3)
    return Pictures(np.ascontiguousarray(pixels), labels, classes, "collages of Fashion-MNIST")


def suited(classes: Sequence[str], count: int, part: str = "test") -> Pictures:
    """The shipped pictures for a network of these classes: collages, where they are places in one, else the items."""
    found = collages(count, part)
    return found if found.classes == tuple(classes) else shipped(count, part)


def digest() -> str:
    """SHA-256 of the shipped sample."""
    return hashlib.sha256(SHIPPED.read_bytes() + COLLAGES.read_bytes()).hexdigest()


def fit(pixels: NDArray[np.uint8], imgsz: int, interpolation: str, crop_pct: float) -> NDArray[np.uint8]:
    """Resize the shorter side to ``imgsz / crop_pct`` and crop the centre: (n, h, w, 3) → (n, imgsz, imgsz, 3)."""
    side = round(imgsz / crop_pct)
    margin = (side - imgsz) // 2
    fitted = np.empty((len(pixels), imgsz, imgsz, 3), np.uint8)
    for i, picture in enumerate(pixels):
        h, w = picture.shape[:2]
        size = (round(side * w / min(h, w)), round(side * h / min(h, w)))
        large = Image.fromarray(picture).resize(size, _FILTERS[interpolation])
        left, top = margin + (size[0] - side) // 2, margin + (size[1] - side) // 2
        fitted[i] = np.asarray(large.crop((left, top, left + imgsz, top + imgsz)))
    return fitted


def grey(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(n, h, w, 3) → (n, h, w): the luma of ITU-R 601, as PIL's mode ``L`` has it."""
    return np.stack([np.asarray(Image.fromarray(picture).convert("L")) for picture in pixels])


def normalise(pictures: NDArray[np.uint8], normalisation: Normalisation) -> NDArray[np.float32]:
    """(n, h, w, 3) uint8 RGB → (n, 3, h, w) float32, (x/255 - mean) / std, the channels in the program's order.

    Of grey pictures, (n, h, w) → (n, 1, h, w): the first of the three numbers counts.
    """
    scaled = pictures.astype(np.float32) / np.float32(255)
    mean, std = (np.asarray(v, np.float32) for v in (normalisation.mean, normalisation.std))
    if pictures.ndim == 3:
        scaled, mean, std = scaled[..., np.newaxis], mean[:1], std[:1]
    done = ((scaled - mean) / std)[..., :: 1 if normalisation.channels == "RGB" else -1]
    return np.ascontiguousarray(done.transpose(0, 3, 1, 2))


def synthetic(specs: tuple[TensorSpec, ...], count: int, seed: int = 0) -> dict[str, Array]:
    """Seeded inputs for a model that takes no RGB picture: normal for floats, 0 or 1 for whole numbers."""
    random = np.random.default_rng(seed)
    arrays: dict[str, Array] = {}
    for spec in specs:
        shape = (count, *spec.shape[1:])
        floating = np.issubdtype(np.dtype(spec.dtype), np.floating)
        drawn = random.standard_normal(shape) if floating else random.integers(0, 2, shape)
        arrays[spec.name] = drawn.astype(spec.dtype)
    return arrays
