"""Pictures of one's own: a folder with ``train/CLASS/…`` and ``val/CLASS/…``, as ImageNet is usually kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from lvexport.models.preprocessing import Preprocessing
from lvexport.training.errors import DataError
from lvexport.training.sampler import Pick, Size

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".webp"})
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
# A training crop has this share of the picture's area and its sides this ratio, both drawn for each picture anew
# (Szegedy et al., arXiv 1409.4842, section 6).
CROP_AREA = (0.08, 1.0)
CROP_RATIO = (3 / 4, 4 / 3)


class ImageFolder(Dataset[tuple[Tensor, Tensor]]):
    """One split: (N, 3, *size) normalised pictures and their (N,) labels, a batch at a time.

    With ``augment`` each picture is cropped and mirrored at random; without, its centre is cut out as
    :class:`~lvexport.models.preprocessing.Preprocessing` says.
    """

    def __init__(
        self, folder: Path, classes: Sequence[str], preprocessing: Preprocessing, augment: bool, seed: int
    ) -> None:
        self.classes = tuple(classes)
        self.files = [
            (path, label)
            for label, name in enumerate(classes)
            for path in sorted((folder / name).rglob("*"))
            if path.suffix.lower() in SUFFIXES
        ]
        if not self.files:
            raise DataError(
                f"There are no pictures in {folder}. Put them at {folder}/CLASS/NAME, as {', '.join(sorted(SUFFIXES))}."
            )
        self.preprocessing, self.augment, self.seed = preprocessing, augment, seed

    def __len__(self) -> int:
        return len(self.files)

    def __getitems__(self, picks: Sequence[Pick]) -> tuple[Tensor, Tensor]:
        pictures = np.stack([self._picture(pick) for pick in picks]).astype(np.float32) / 255
        mean, std = (np.array(numbers, np.float32) for numbers in (self.preprocessing.mean, self.preprocessing.std))
        images = torch.from_numpy((pictures - mean) / std).permute(0, 3, 1, 2)
        return images, torch.tensor([self.files[pick][1] for pick in picks])

    def _picture(self, pick: Pick) -> NDArray[np.uint8]:
        """(rows, columns, 3) of one sample."""
        path, _ = self.files[pick]
        try:
            with Image.open(path) as opened:
                image = opened.convert("RGB")
        except OSError as error:  # also what Pillow raises for a file that is no picture
            raise DataError(f"{path} cannot be read as a picture ({error}). Mend it or take it out.") from error
        random = np.random.default_rng([self.seed, pick.epoch, int(pick)])
        return np.asarray(self._augmented(image, pick.size, random) if self.augment else self._centre(image, pick.size))

    def _augmented(self, image: Image.Image, size: Size, random: np.random.Generator) -> Image.Image:
        rows, columns = size
        cut = image.resize((columns, rows), FILTERS[self.preprocessing.interpolation], crop(image, random))
        return ImageOps.mirror(cut) if random.random() < 0.5 else cut

    def _centre(self, image: Image.Image, size: Size) -> Image.Image:
        rows, columns = size
        bleed = (1 - self.preprocessing.crop_pct) / 2  # what is cut off on either side
        return ImageOps.fit(image, (columns, rows), FILTERS[self.preprocessing.interpolation], bleed)


def crop(image: Image.Image, random: np.random.Generator) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a random part of the picture, no larger than it."""
    width, height = image.size
    ratio = np.exp(random.uniform(*np.log(CROP_RATIO)))
    area = random.uniform(*CROP_AREA) * width * height
    w, h = min(width, np.sqrt(area * ratio)), min(height, np.sqrt(area / ratio))
    left, top = random.uniform(0, width - w), random.uniform(0, height - h)
    return left, top, left + w, top + h


def load(folder: Path, preprocessing: Preprocessing, seed: int) -> tuple[ImageFolder, ImageFolder]:
    """The training part, augmented, and the validation part, as it is. Classes are the folders in ``train``.

    Raises DataError where a part is missing or they do not have the same classes.
    """
    parts = [folder / "train", folder / "val"]
    for part in parts:
        if not part.is_dir():
            raise DataError(
                f"{folder} has no folder {part.name}. Training data are train/CLASS/NAME.jpg to learn from and "
                "val/CLASS/NAME.jpg to measure with; or type --data fashion-mnist."
            )
    classes, others = (sorted(path.name for path in part.iterdir() if path.is_dir()) for part in parts)
    if unknown := sorted(set(others) - set(classes)):
        raise DataError(
            f"{parts[1]} has classes that {parts[0]} has not: {', '.join(unknown[:5])}. Give both the same."
        )
    if len(classes) < 2:
        raise DataError(f"{parts[0]} has {len(classes)} classes. A classifier needs two or more, a folder each.")
    train, val = (ImageFolder(part, classes, preprocessing, part is parts[0], seed) for part in parts)
    return train, val
