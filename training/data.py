"""Fashion-MNIST: 60,000 training and 10,000 test images of clothing, 28×28, grey, ten classes.

Source: Xiao, Rasul and Vollgraf, arXiv 1708.07747, MIT licence; Debian's package ``dataset-fashion-mnist``.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
# A grey image looks the same with its channels swapped, so a network trained on grey images is blind to that
# fault and so is every check made with it. Each image is therefore dyed: channel c is multiplied by a factor
# drawn from this range.
DYE = (0.5, 1.0)


@dataclass(frozen=True)
class Images:
    """``pixels``: (N, 28, 28) uint8. ``labels``: (N,) int64, indices into :data:`CLASSES`."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Array of bytes in the IDX format (big-endian: magic, one length a dimension, then the data)."""
    raw = gzip.decompress(path.read_bytes())
    if raw[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path} is not an IDX file of bytes")
    dimensions = raw[3]
    shape = np.frombuffer(raw, ">u4", count=dimensions, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions).reshape(shape.astype(int))


def fashion_mnist(split: str, folder: Path = DEBIAN_FOLDER) -> Images:
    """The ``train`` or ``t10k`` (test) split.

    Raises FileNotFoundError where the data are not installed (``apt-get install dataset-fashion-mnist``).
    """
    pixels = read_idx(folder / f"{split}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{split}-labels-idx1-ubyte.gz")
    return Images(pixels, labels.astype(np.int64))


def dye(grey: Tensor, generator: torch.Generator) -> Tensor:
    """(N, H, W) grey in 0…1 → (N, 3, H, W), every image with a colour of its own."""
    low, high = DYE
    factors = low + (high - low) * torch.rand(len(grey), 3, 1, 1, generator=generator)
    return grey[:, None] * factors


def jitter(grey: Tensor, generator: torch.Generator, reach: int = 2) -> Tensor:
    """Mirror half of the images (N, H, W) and move each by up to ``reach`` pixels, filling with black."""
    n, h, w = grey.shape
    mirrored = torch.rand(n, 1, 1, generator=generator) < 0.5
    grey = torch.where(mirrored, grey.flip(-1), grey)
    padded = F.pad(grey, (reach, reach, reach, reach))
    top, left = torch.randint(0, 2 * reach + 1, (2, n, 1, 1), generator=generator)
    rows, columns = torch.arange(h)[None, :, None] + top, torch.arange(w)[None, None, :] + left
    return padded[torch.arange(n)[:, None, None], rows, columns]


def resize(images: Tensor, size: int) -> Tensor:
    """(N, 3, H, W) → (N, 3, size, size), bilinear, pixel centres aligned as Pillow aligns them."""
    return F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
