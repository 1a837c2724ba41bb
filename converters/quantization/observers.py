"""From what calibration saw of a tensor to the range that its grid spans. Importing this loads torch.

A histogram stands for the tensor: BINS equal bins between its smallest and its largest number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lvexport.converters.quantization.grids import spanning

BINS = 2048
PERCENTILE = 0.9999  # of the numbers lie within the range of a grid of 8 bits, half of the others on either side
_BITS = 8
_SHARES = tuple(0.97**i for i in range(100))  # of the largest magnitude, that are tried
_NEVER = 1e-12  # the probability of what was never seen
Range = tuple[float, float]


@dataclass(frozen=True)
class Seen:
    """All numbers that a tensor had. ``counts``: (BINS,), between ``low`` and ``high``."""

    low: float
    high: float
    counts: Tensor

    @property
    def centres(self) -> Tensor:
        width = (self.high - self.low) / BINS
        return self.low + width * (torch.arange(BINS, dtype=torch.double) + 0.5)


def min_max(seen: Seen, bits: int) -> Range:
    """All of it."""
    return seen.low, seen.high


def percentile(seen: Seen, bits: int) -> Range:
    """Without the outermost few numbers: the fewer, the finer the steps of the grid are."""
    below = seen.counts.cumsum(0) / seen.counts.sum()
    rest = (1 - PERCENTILE) / 2 / 2 ** max(bits - _BITS, 0)
    first, last = int((below < rest).sum()), int((below < 1 - rest).sum())
    width = (seen.high - seen.low) / BINS
    return seen.low + width * first, seen.low + width * min(last + 1, BINS)


def least_squares(seen: Seen, bits: int) -> Range:
    """The range that leaves the least squared error."""
    centres = seen.centres

    def error(span: Range) -> float:
        off = spanning(*span, bits).rounded(centres.float()).double() - centres
        return float((seen.counts * off.square()).sum())

    return min(shrunk(seen), key=error)


def entropy(seen: Seen, bits: int) -> Range:
    """The range after which the distribution of what is left tells the most about that of the numbers.

    Kullback-Leibler divergence of the histogram and its rounded form, as in Migacz, 8-bit inference with TensorRT
    (GTC 2017).
    """
    centres = seen.centres

    def divergence(span: Range) -> float:
        inside = (centres >= span[0]) & (centres <= span[1])
        kept = seen.counts * inside
        level = spanning(*span, bits).levels(centres)
        sums, members = (
            torch.zeros(2**bits, dtype=torch.double).index_add_(0, level, of) for of in (kept, (kept > 0).double())
        )
        q = (sums / members.clamp_min(1))[level] * (kept > 0)
        p = kept.clone()
        ends = torch.nonzero(inside).flatten()[[0, -1]]
        p[ends[0]] += seen.counts[: ends[0]].sum()  # what is clipped lands at the ends of the range
        p[ends[1]] += seen.counts[ends[1] + 1 :].sum()
        present = p > 0
        p, q = p[present] / p.sum(), q[present] / q.sum()
        q = q.clamp_min(_NEVER)
        return float((p * (p / q).log()).sum())

    return min(shrunk(seen), key=divergence)


def shrunk(seen: Seen) -> list[Range]:
    """The whole range, and what of it lies within smaller and smaller magnitudes."""
    most = max(-seen.low, seen.high)
    return [(max(seen.low, -most * share), min(seen.high, most * share)) for share in _SHARES]


OBSERVERS: dict[str, Callable[[Seen, int], Range]] = {
    "min-max": min_max,
    "percentile": percentile,
    "mse": least_squares,
    "entropy": entropy,
}
