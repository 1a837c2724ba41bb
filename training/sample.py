"""Makes the sample of real images that ships with the project: ``python -m lvexport.training.sample OUT.safetensors``.

2,000 test images to verify with and 512 training images to calibrate with, drawn by a seed, each picture once.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from lvexport.training import fashion_mnist

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


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, default=fashion_mnist.DEBIAN_FOLDER)
    options = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(make(options.data), options.out, metadata=METADATA)


if __name__ == "__main__":
    main()
