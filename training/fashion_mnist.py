"""Fashion-MNIST: 60,000 training and 10,000 test images of clothing, 28×28, grey, ten classes.

Source: Xiao, Rasul and Vollgraf, arXiv 1708.07747, MIT licence; Debian's package ``dataset-fashion-mnist``.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from lvexport.models.preprocessing import Preprocessing
from lvexport.training.sampler import Pick, Size

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


def draw_dyes(count: int, generator: torch.Generator) -> Tensor:
    """(count, 3, 1, 1) factors, a colour for each image."""
    low, high = DYE
    return low + (high - low) * torch.rand(count, 3, 1, 1, generator=generator)


def jitter(grey: Tensor, generator: torch.Generator, reach: int = 2) -> Tensor:
    """Mirror half of the images (N, H, W) and move each by up to ``reach`` pixels, filling with black."""
    n, h, w = grey.shape
    mirrored = torch.rand(n, 1, 1, generator=generator) < 0.5
    grey = torch.where(mirrored, grey.flip(-1), grey)
    padded = F.pad(grey, (reach, reach, reach, reach))
    top, left = torch.randint(0, 2 * reach + 1, (2, n, 1, 1), generator=generator)
    rows, columns = torch.arange(h)[None, :, None] + top, torch.arange(w)[None, None, :] + left
    return padded[torch.arange(n)[:, None, None], rows, columns]


def resize(images: Tensor, size: Size) -> Tensor:
    """(N, 3, H, W) → (N, 3, *size), bilinear, pixel centres aligned as Pillow aligns them."""
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False)


class FashionMnist(Dataset[tuple[Tensor, Tensor]]):
    """One split, held in memory, whole batches at a time: (N, 3, *size) normalised pictures and their (N,) labels.

    With ``augment`` pictures are moved, mirrored and dyed anew in every epoch. Without, each keeps its one colour.
    """

    classes = CLASSES

    def __init__(self, images: Images, preprocessing: Preprocessing, augment: bool, seed: int) -> None:
        self.pixels, self.labels = torch.from_numpy(images.pixels.copy()), torch.from_numpy(images.labels)
        self.mean = torch.tensor(preprocessing.mean).reshape(3, 1, 1)
        self.std = torch.tensor(preprocessing.std).reshape(3, 1, 1)
        self.augment, self.seed = augment, seed
        self.dyes = draw_dyes(len(self.labels), torch.Generator().manual_seed(seed))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, picks: Sequence[Pick]) -> tuple[Tensor, Tensor]:
        chosen = torch.tensor(list(map(int, picks)))
        grey, dyes = self.pixels[chosen].float() / 255, self.dyes[chosen]
        if self.augment:
            generator = self._generator(picks[0])
            grey, dyes = jitter(grey, generator), draw_dyes(len(chosen), generator)
        pictures = resize(grey[:, None] * dyes, picks[0].size)
        return (pictures - self.mean) / self.std, self.labels[chosen]

    def _generator(self, first: Pick) -> torch.Generator:
        """One for each batch: no two batches of an epoch begin with the same sample."""
        state = np.random.SeedSequence([self.seed, first.epoch, int(first)]).generate_state(1, np.uint32)
        return torch.Generator().manual_seed(int(state[0]))


def load(folder: Path, preprocessing: Preprocessing, seed: int) -> tuple[FashionMnist, FashionMnist]:
    """All training images, augmented, and all test images, as they are."""
    train, test = (fashion_mnist(split, folder) for split in ("train", "t10k"))
    return FashionMnist(train, preprocessing, True, seed), FashionMnist(test, preprocessing, False, seed)
