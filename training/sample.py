"""Makes the sample of real images that ships with the project: ``python -m lvexport.training.sample OUT.safetensors``.

2,000 test images to verify with and 512 training images to calibrate with, drawn by a seed, each picture once; and
beside them, in ``collages.safetensors``, as many collages of each part.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from lvexport.training import collages, fashion_mnist

SEED = 0
TEST, CALIBRATION = 2000, 512
METADATA = {
    "source": "Fashion-MNIST (Zalando SE, arXiv 1708.07747), Debian package dataset-fashion-mnist",
    "licence": "MIT",
    "classes": json.dumps(fashion_mnist.CLASSES),
}


def draw(images: fashion_mnist.Images, count: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Indices of ``count`` images, no two of them alike to the pixel, in their original order."""
    _, first = np.unique(images.pixels.reshape(len(images.pixels), -1), axis=0, return_index=True)
    return np.sort(random.choice(first, count, replace=False))


def make(folder: Path) -> dict[str, NDArray[np.generic]]:
    """The arrays of the file: pixels (N, 28, 28), labels (N,), and dye (N, 3), all uint8, a set each."""
    random = np.random.default_rng(SEED)
    arrays: dict[str, NDArray[np.generic]] = {}
    for name, split, count in (("test", "t10k", TEST), ("calibration", "train", CALIBRATION)):
        images = fashion_mnist.fashion_mnist(split, folder)
        chosen = draw(images, count, random)
        low, high = (round(255 * bound) for bound in fashion_mnist.DYE)
        arrays[f"{name}.pixels"] = images.pixels[chosen]
        arrays[f"{name}.labels"] = images.labels[chosen].astype(np.uint8)
        arrays[f"{name}.dye"] = random.integers(low, high, (count, 3), dtype=np.uint8, endpoint=True)
    return arrays


def compose(arrays: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
    """The arrays of the file of collages: for each part cells (N, 9), indices of its images, and answers (N,)."""
    random = np.random.default_rng(SEED)
    made: dict[str, NDArray[np.generic]] = {}
    for part in ("test", "calibration"):
        labels = arrays[f"{part}.labels"].astype(np.int64)
        layout = collages.Drawing(labels)(np.arange(len(labels)), random)
        made[f"{part}.cells"] = layout.cells.astype(np.uint16)
        made[f"{part}.answers"] = layout.answers.astype(np.uint8)
    return made


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, default=fashion_mnist.DEBIAN_FOLDER)
    options = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    arrays = make(options.data)
    save_file(arrays, options.out, metadata=METADATA)
    places = METADATA | {"classes": json.dumps(collages.CLASSES)}
    save_file(compose(arrays), options.out.with_name("collages.safetensors"), metadata=places)


if __name__ == "__main__":
    main()
