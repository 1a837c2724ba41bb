"""The multi-scale sampler of MobileViT (Mehta and Rastegari, arXiv 2110.02178, section 3.3).

At each iteration every worker draws one of the resolutions S = {(H₁, W₁), …, (Hₙ, Wₙ)} and takes a batch of as many
pixels as a batch of ``batch`` samples at the largest: b_t = Hₙ·Wₙ·b / (H_t·W_t). Small pictures go through the
network in large batches, so that an epoch has fewer steps and each step costs about the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
from torch.utils.data import BatchSampler, SequentialSampler

Size = tuple[int, int]  # rows and columns


class Pick(int):
    """The index of a sample, and how it is wanted. To a data set that does not look, it is an ordinary index.

    ``size``: rows and columns in pixels. ``epoch``: the epoch, for augmentation that can be repeated.
    """

    size: Size
    epoch: int

    def __new__(cls, index: int, size: Size, epoch: int) -> Pick:
        pick = super().__new__(cls, index)
        pick.size, pick.epoch = size, epoch
        return pick

    def __getnewargs__(self) -> tuple[int, Size, int]:  # type: ignore[override]
        return int(self), self.size, self.epoch


@dataclass(frozen=True)
class Iteration:
    """What all workers do at one iteration: the resolution that each drew, and how many samples each takes."""

    start: int  # how many samples of the epoch the iterations before took
    sizes: tuple[Size, ...]
    counts: tuple[int, ...]


class MultiScaleBatchSampler(BatchSampler):
    """Yields batches of :class:`Pick`, for ``torch.utils.data.DataLoader(…, batch_sampler=…)``.

    ``samples``: how many the data set holds. ``sizes``: resolutions, as sides of a square or (rows, columns); a single
    one makes it an ordinary shuffling sampler. ``batch``: samples in a batch at the largest. ``rank`` of ``workers``:
    which worker this is, where several train together.

    - A batch at resolution t has ``Hₙ·Wₙ·batch / (H_t·W_t)`` samples, rounded down and at least 1, so that no batch
      has more pixels than the largest resolution's.
    - Each sample is in one batch of one worker in each epoch. All workers have the same number of batches. Only the
      last one is of another size: it holds the samples that are left, dealt out evenly. Where fewer are left than
      there are workers, they are added to the last full batches, one each.
    - Batches follow from ``seed`` and epoch alone; every worker works out all workers' draws and needs to ask nobody.
    - ``set_epoch(epoch, start)`` goes on in the middle of an epoch, after ``start`` batches.

    Raises ValueError for sizes or counts that are not positive, and for fewer samples than workers.
    """

    def __init__(
        self,
        samples: int,
        sizes: Sequence[int | Size],
        batch: int,
        *,
        seed: int = 0,
        rank: int = 0,
        workers: int = 1,
    ) -> None:
        self.samples, self.batch, self.seed, self.rank, self.workers = samples, batch, seed, rank, workers
        self.sizes = sorted({(s, s) if isinstance(s, int) else s for s in sizes}, key=lambda size: (area(size), size))
        if not self.sizes or min(min(size) for size in self.sizes) < 1 or batch < 1:
            raise ValueError("A sampler needs at least one resolution, and a batch and sides of at least 1.")
        if not 0 <= rank < workers <= samples:
            raise ValueError(f"{samples} samples cannot be shared out to worker {rank} of {workers}.")
        super().__init__(SequentialSampler(range(samples)), batch, drop_last=False)
        self.set_epoch(0)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Go to an epoch, and in it past the first ``start`` batches."""
        random = np.random.default_rng([self.seed, epoch])
        self.epoch, self.start = epoch, start
        self.order = random.permutation(self.samples)
        self.iterations = list(self._draw(random))

    def batch_at(self, size: Size) -> int:
        """Samples in a full batch at that resolution."""
        return max(1, area(self.sizes[-1]) * self.batch // area(size))

    def _draw(self, random: np.random.Generator) -> Iterator[Iteration]:
        start = 0
        while start < self.samples:
            sizes = tuple(self.sizes[i] for i in random.integers(len(self.sizes), size=self.workers))
            counts = tuple(map(self.batch_at, sizes))
            left = self.samples - start - sum(counts)
            if left < 0:
                counts = deal(self.samples - start, counts)
            elif 0 < left < self.workers:
                counts = tuple(n + (worker < left) for worker, n in enumerate(counts))
            yield Iteration(start, sizes, counts)
            start += sum(counts)

    def share(self, iteration: int) -> float:
        """This worker's part of an iteration's samples, times the workers: what its mean gradient has to weigh."""
        counts = self.iterations[iteration].counts
        return counts[self.rank] * self.workers / sum(counts)

    def __iter__(self) -> Iterator[list[int]]:
        for iteration in self.iterations[self.start :]:
            first = iteration.start + sum(iteration.counts[: self.rank])
            chosen = self.order[first : first + iteration.counts[self.rank]]
            yield [Pick(int(index), iteration.sizes[self.rank], self.epoch) for index in chosen]

    def __len__(self) -> int:
        return len(self.iterations) - self.start


def area(size: Size) -> int:
    return size[0] * size[1]


def deal(total: int, room: tuple[int, ...]) -> tuple[int, ...]:
    """Hand out ``total`` samples one by one, in turn, to those who have room: at least 1 each, where there are enough.

    ``room``: how many each takes at most, together no fewer than ``total``.
    """
    turns = (who for level in count(1) for who, most in enumerate(room) if level <= most)
    dealt = np.bincount(list(islice(turns, total)), minlength=len(room))
    return tuple(map(int, dealt))
