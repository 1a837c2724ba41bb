"""Data sets small enough to train on in seconds, in the files that real ones have."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lvexport.training import fashion_mnist


def bars(count: int, seed: int = 0) -> fashion_mnist.Images:
    """Pictures of upright and level bars: two classes that a network tells apart at once."""
    random = np.random.default_rng(seed)
    pixels, labels = np.zeros((count, 28, 28), np.uint8), random.integers(0, 2, count)
    for picture, label, at in zip(pixels, labels, random.integers(4, 20, count), strict=True):
        strip = slice(at, at + 5)
        picture[(slice(None), strip) if label else strip] = 255
    return fashion_mnist.Images(pixels, labels)


def write_idx(path: Path, values: np.ndarray) -> None:
    header = b"\x00\x00\x08" + bytes([values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes()))


@pytest.fixture
def idx_folder(tmp_path: Path) -> Path:
    """Bars in the files of Fashion-MNIST."""
    for split, count, seed in (("train", 64, 0), ("t10k", 48, 1)):
        images = bars(count, seed)
        noise = np.random.default_rng(seed).integers(0, 50, images.pixels.shape, np.uint8)
        write_idx(tmp_path / f"{split}-images-idx3-ubyte.gz", np.maximum(images.pixels, noise))
        write_idx(tmp_path / f"{split}-labels-idx1-ubyte.gz", images.labels)
    return tmp_path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Bars as pictures in folders: ``train/level``, ``train/upright`` and the same in ``val``."""
    root = tmp_path / "pictures"
    for part, count, seed in (("train", 96, 0), ("val", 40, 1)):
        images = bars(count, seed)
        for i, (pixels, label) in enumerate(zip(images.pixels, images.labels, strict=True)):
            folder = root / part / ("level", "upright")[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).convert("RGB").resize((40, 36)).save(folder / f"{i}.png")
    return root
