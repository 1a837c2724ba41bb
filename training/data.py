"""What a network can be trained on: opening it by name, and reading it batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import BatchSampler, DataLoader, Dataset

from lvexport.models.preprocessing import Preprocessing
from lvexport.training import collages, fashion_mnist, folders
from lvexport.training.errors import DataError
from lvexport.training.sampler import Pick

FASHION_MNIST, COLLAGES = "fashion-mnist", "collages"


class Batches(Protocol):
    """A data set that gives whole batches: normalised (N, 3, rows, columns) pictures and (N,) labels."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...
    def __getitems__(self, picks: Sequence[Pick]) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Data:
    """What to learn from and what to measure with. ``preprocessing`` is what a picture goes through when measuring."""

    name: str
    train: Batches
    val: Batches
    preprocessing: Preprocessing

    @property
    def classes(self) -> tuple[str, ...]:
        return self.train.classes


# Made from the images of Debian's package.
DEBIAN: dict[str, Callable[[Path, Preprocessing, int], tuple[Batches, Batches]]] = {
    FASHION_MNIST: fashion_mnist.load,
    COLLAGES: collages.load,
}


def open_data(name: str, preprocessing: Preprocessing, seed: int) -> Data:
    """``fashion-mnist``, ``collages``, or a folder with ``train/CLASS/…`` and ``val/CLASS/…``. Raises DataError."""
    if name not in DEBIAN:
        if not Path(name).is_dir():
            raise DataError(f"There are no training data at {name}. --data takes a folder, fashion-mnist or collages.")
        return Data(name, *folders.load(Path(name), preprocessing, seed), preprocessing)
    # Whole pictures are stretched to the size wanted, in training and when measuring.
    whole = replace(preprocessing, interpolation="bilinear", crop_pct=1.0)
    try:
        return Data(name, *DEBIAN[name](fashion_mnist.DEBIAN_FOLDER, whole, seed), whole)
    except FileNotFoundError as error:
        raise DataError(
            f"Fashion-MNIST is not installed: there is no {error.filename}. Type: apt-get install dataset-fashion-mnist"
        ) from error


def whole(batch: Any) -> Any:
    """Collate nothing: the data set gave a batch."""
    return batch


def loader(data: Batches, batches: BatchSampler | Sequence[Sequence[Pick]], processes: int = 0) -> DataLoader[Any]:
    """Reads the batches in order, in ``processes`` of their own or, with 0, in this one."""
    return DataLoader(data, batch_sampler=batches, num_workers=processes, collate_fn=whole)  # type: ignore[arg-type]


def in_order(indices: range, size: int, batch: int, epoch: int = 0) -> Iterator[list[Pick]]:
    """Batches of the samples as they stand, all at one size, for measuring."""
    for start in range(0, len(indices), batch):
        yield [Pick(i, (size, size), epoch) for i in indices[start : start + batch]]


class AtSize(Dataset[tuple[Tensor, Any]]):
    """Any data set of (3, H, W) pictures and labels, each stretched to the size that a :class:`Pick` asks for."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, pick: int) -> tuple[Tensor, Any]:
        picture, label = self.data[int(pick)]
        if not isinstance(pick, Pick):
            return picture, label
        return F.interpolate(picture[None], size=pick.size, mode="bilinear", antialias=True)[0], torch.as_tensor(label)
