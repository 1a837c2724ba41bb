"""Collages of nine items of clothing, made on the fly: where is the only other item of the middle one's class?

A network has to compare the middle item with eight others, up to a third of the picture away, to tell. Convolutions
alone see no further than a neighbour, so that this task needs the global part of a network, as telling clothes apart
does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from lvexport.models.preprocessing import Preprocessing
from lvexport.training.fashion_mnist import Images, draw_dyes, fashion_mnist, jitter, resize
from lvexport.training.sampler import Pick

GRID = 3  # items a side
# The places around the middle one, row by row; an answer is an index into them.
CLASSES = ("top left", "top", "top right", "left", "right", "bottom left", "bottom", "bottom right")
CUE = GRID * GRID // 2  # the cell in the middle
EASY_EPOCHS = 1  # at first only some of the others are there, so that what is asked for is found out sooner
PLACES = np.array([cell for cell in range(GRID * GRID) if cell != CUE])


@dataclass(frozen=True)
class Layout:
    """``cells``: (N, 9) indices of images, row by row. ``answers``: (N,) int64, indices into :data:`CLASSES`."""

    cells: NDArray[np.int64]
    answers: NDArray[np.int64]


class Drawing:
    """Draws collages from images of which the ``labels`` (N,) are known. Every class needs two images or more."""

    def __init__(self, labels: NDArray[np.int64]) -> None:
        self.labels = labels
        self.order = np.argsort(labels, kind="stable")  # class by class
        self.counts = np.bincount(labels)
        self.starts = np.cumsum(self.counts) - self.counts
        self.ranks = np.empty_like(self.order)  # of each image in its class
        self.ranks[self.order] = np.arange(len(labels)) - self.starts[labels[self.order]]

    def __call__(self, cues: NDArray[np.int64], random: np.random.Generator) -> Layout:
        """A collage around each of the ``cues`` (N,), indices of images: one of its class, seven of other classes."""
        n, others = len(cues), len(PLACES)
        own = self.labels[cues][:, None]
        foreign = (own + random.integers(1, len(self.counts), (n, others))) % len(self.counts)
        around = self._some(foreign, random.random((n, others)))
        answers = random.integers(0, others, n)
        around[np.arange(n), answers] = self._another(cues, random.random(n))
        cells = np.empty((n, GRID * GRID), np.int64)
        cells[:, PLACES], cells[:, CUE] = around, cues
        return Layout(cells, answers)

    def _some(self, classes: NDArray[np.int64], share: NDArray[np.float64]) -> NDArray[np.int64]:
        """An image of each of the classes, ``share`` of the way through them."""
        chosen: NDArray[np.int64] = self.order[self.starts[classes] + (share * self.counts[classes]).astype(np.int64)]
        return chosen

    def _another(self, cues: NDArray[np.int64], share: NDArray[np.float64]) -> NDArray[np.int64]:
        """An image of the same class as each cue, which is not the cue itself."""
        own = self.labels[cues]
        step = 1 + (share * (self.counts[own] - 1)).astype(np.int64)
        chosen: NDArray[np.int64] = self.order[self.starts[own] + (self.ranks[cues] + step) % self.counts[own]]
        return chosen


class Collages(Dataset[tuple[Tensor, Tensor]]):
    """One split, as many collages as it has images, each image in the middle of one: (N, 3, *size) and (N,) answers.

    With ``augment`` they are drawn anew in every epoch, and each item is moved, mirrored and dyed by itself. Without,
    there is one collage for each image, and each image has one colour.
    """

    classes = CLASSES

    def __init__(self, images: Images, preprocessing: Preprocessing, augment: bool, seed: int) -> None:
        self.pixels, self.drawing = torch.from_numpy(images.pixels.copy()), Drawing(images.labels)
        self.mean = torch.tensor(preprocessing.mean).reshape(3, 1, 1)
        self.std = torch.tensor(preprocessing.std).reshape(3, 1, 1)
        self.augment, self.seed = augment, seed
        self.dyes = draw_dyes(len(images.labels), torch.Generator().manual_seed(seed))
        self.fixed = self.drawing(np.arange(len(images.labels)), np.random.default_rng(seed))

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitems__(self, picks: Sequence[Pick]) -> tuple[Tensor, Tensor]:
        cues = np.array(picks, np.int64)
        if not self.augment:
            layout = Layout(self.fixed.cells[cues], self.fixed.answers[cues])
            cells = torch.from_numpy(layout.cells.reshape(-1))
            grey, dyes = self.pixels[cells].float() / 255, self.dyes[cells]
        else:  # no two batches of an epoch begin with the same sample
            random = np.random.default_rng([self.seed, picks[0].epoch, int(picks[0])])
            layout = self.drawing(cues, random)
            generator = torch.Generator().manual_seed(int(random.integers(2**32)))
            grey = jitter(self.pixels[torch.from_numpy(layout.cells.reshape(-1))].float() / 255, generator)
            dyes = draw_dyes(len(grey), generator)
            if picks[0].epoch < EASY_EPOCHS:
                grey *= torch.from_numpy(shown(layout, random).reshape(-1, 1, 1))
        pictures = resize(paste(grey[:, None] * dyes), picks[0].size)
        return (pictures - self.mean) / self.std, torch.from_numpy(layout.answers)


def shown(layout: Layout, random: np.random.Generator) -> NDArray[np.bool_]:
    """(N, 9): which cells of easier collages are not empty. The cue, its like, and from none to all of the others."""
    n = len(layout.answers)
    seen = random.random(layout.cells.shape) < random.random((n, 1))
    seen[:, CUE] = seen[np.arange(n), PLACES[layout.answers]] = True
    return seen


def paste(items: Tensor) -> Tensor:
    """(N·9, C, H, W) items, row by row → (N, C, 3·H, 3·W) collages."""
    _, c, h, w = items.shape
    grid = items.reshape(-1, GRID, GRID, c, h, w).permute(0, 3, 1, 4, 2, 5)
    return grid.reshape(-1, c, GRID * h, GRID * w)


def load(folder: Path, preprocessing: Preprocessing, seed: int) -> tuple[Collages, Collages]:
    """Collages of all training images, augmented, and of all test images, as they are."""
    train, test = (fashion_mnist(split, folder) for split in ("train", "t10k"))
    return Collages(train, preprocessing, True, seed), Collages(test, preprocessing, False, seed)
