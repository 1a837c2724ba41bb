"""Right answers counted for an artifact and its original on the same pictures, and what such counts can say."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lvexport.validation.contract import Array
from lvexport.validation.metrics import flat

BEST = 5  # the classes of a picture that top-5 looks at
Z = 1.959963984540054  # 97.5 % of a normal distribution lies below; two sides leave 95 %
SIGNIFICANT = 0.05  # largest p-value that is called a difference

Interval = tuple[float, float]
Finding = Literal["worse", "better", "no difference shown"]


@dataclass(frozen=True)
class Tally:
    """Counts over ``images`` labelled pictures; two of them add up to those over both.

    ``top1`` and ``top5``: pictures whose label the artifact has first, or among its first five; ``original_…`` are the
    original's. ``only_original`` and ``only_artifact``: those of which one alone has the label first.
    """

    images: int = 0
    top1: int = 0
    top5: int = 0
    original_top1: int = 0
    original_top5: int = 0
    only_original: int = 0
    only_artifact: int = 0

    def __add__(self, other: Tally) -> Tally:
        names = self.__dataclass_fields__
        return Tally(**{name: getattr(self, name) + getattr(other, name) for name in names})

    @property
    def p_value(self) -> float:
        return mcnemar(self.only_original, self.only_artifact)

    @property
    def finding(self) -> Finding:
        """Whether the artifact is right on fewer or more pictures than the original, beyond chance."""
        return finding(self.only_original, self.only_artifact)


def count(reference: Array, measured: Array, labels: Array) -> Tally:
    """Compare outputs (n, classes) of the original and of the artifact with the labels (n,)."""
    theirs, ours = first(reference, labels, 1), first(measured, labels, 1)
    return Tally(
        len(labels),
        int(ours.sum()),
        int(first(measured, labels, BEST).sum()),
        int(theirs.sum()),
        int(first(reference, labels, BEST).sum()),
        int((theirs & ~ours).sum()),
        int((ours & ~theirs).sum()),
    )


def first(values: Array, labels: Array, best: int) -> Array:
    """(n,) bool: whether each label is among the ``best`` largest of its row. Of equal ones the first is larger."""
    scores = flat(np.nan_to_num(values, nan=-np.inf))
    order = np.argsort(-scores, axis=1, kind="stable")[:, :best]
    return np.asarray((order == np.asarray(labels)[:, None]).any(axis=1))


def wilson(right: int, images: int) -> Interval:
    """95 % confidence interval of a share of which ``right`` of ``images`` were seen (Wilson, JASA 22, 1927)."""
    if images == 0:
        return 0.0, 1.0
    share = right / images
    centre = share + Z**2 / (2 * images)
    reach = Z * math.sqrt(share * (1 - share) / images + Z**2 / (4 * images**2))
    scale = 1 + Z**2 / images
    # At the ends rounding would leave 1e-18 where the formula has 0.
    low = 0.0 if right == 0 else (centre - reach) / scale
    high = 1.0 if right == images else (centre + reach) / scale
    return low, high


def mcnemar(only_original: int, only_artifact: int) -> float:
    """Two-sided exact p-value of McNemar's test (Psychometrika 12, 1947).

    Were both as good, each picture that only one gets right would be either's by the toss of a coin. The result is how
    often so uneven a division, or a more uneven one, would come up then.
    """
    tosses, fewer = only_original + only_artifact, min(only_original, only_artifact)
    if 2 * fewer == tosses:
        return 1.0
    # In logarithms: 2^-tosses alone leaves the range of a double from 1,075 on.
    logs = [log_binomial(tosses, k) - tosses * math.log(2) for k in range(fewer + 1)]
    return min(1.0, 2 * math.fsum(map(math.exp, logs)))


def log_binomial(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def finding(only_original: int, only_artifact: int) -> Finding:
    """What counts of pictures that only one of the two gets right say of the artifact."""
    if mcnemar(only_original, only_artifact) > SIGNIFICANT:
        return "no difference shown"
    return "worse" if only_original > only_artifact else "better"
