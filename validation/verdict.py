"""Whether an artifact computes what the original computes: a measurement against a threshold set beforehand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lvexport.converters.contract import BUDGET, Budget, Recipe, TensorSpec
from lvexport.validation import metrics
from lvexport.validation.contract import JUDGED, PICTURE, PROBABILITIES, Array, Overflow
from lvexport.validation.integers.layers import Comparison

# Rounding once to p significant bits leaves 6.02·p dB. Independent roundings add up in power, so N of them in a row
# take 10·log10(N) away. N is the program's own number of operations one behind the other, at least DEPTH, and, where
# sums are kept in that same precision, times sums of TERMS numbers. Half precision is summed in single by every runtime
# here.
DEPTH = 2**7
# The values of a picture are whole numbers. Apple does not say whether Core ML rounds to the nearest or cuts off what
# follows the point. That costs 1/3 in the mean square, and by chance somewhat more; to be off by one costs 1.
WHOLE = 0.4
TERMS = 2**11
SINGLE_BITS = 24
# What it costs to make the same roundings twice, independently: twice the power of their noise.
AGAIN = 10 * math.log10(2)


def threshold_db(recipe: Recipe, depth: int = DEPTH) -> float:
    """Least SQNR in dB that ``depth`` operations one behind the other leave in this precision.

    90.3 for ``fp32`` and 45.2 for ``fp16`` up to a depth of 128; docs/verdict.md derives it.
    """
    roundings = max(depth, DEPTH) * (TERMS if recipe.significand_bits >= SINGLE_BITS else 1)
    return 20 * math.log10(2) * recipe.significand_bits - 10 * math.log10(roundings)


@dataclass(frozen=True)
class Interval:
    """What devices that compute the artifact in unlike ways may make of it, over the first ``samples`` inputs.

    ``sqnr_db``: of each of the ways that bound them, by name. ``overflow``: the first operation that leaves the range
    of half precision in the earliest of these that has one; a device that computes so may answer with anything.
    """

    samples: int
    sqnr_db: Mapping[str, float]
    overflow: Overflow | None


@dataclass(frozen=True)
class Compression:
    """An artifact beside the network with the same rounded weights, as PyTorch computes that.

    ``sqnr_db``: how near the artifact is to it, of at least ``threshold_db``, so that its integers, scales and zero
    points are the right ones. ``network_db``: how near it is to the original. None where nothing says how weights were
    rounded. The rest is the budget of the verdict, and whether the artifact keeps within it.
    """

    sqnr_db: float | None
    threshold_db: float | None
    network_db: float | None
    max_drop: float
    min_retrieval: float
    within_budget: bool
    layers: Comparison | None = None

    @property
    def faithful(self) -> bool | None:
        """None where that is not known."""
        return None if self.sqnr_db is None or self.threshold_db is None else self.sqnr_db >= self.threshold_db


@dataclass(frozen=True)
class Verdict:
    """``samples`` inputs were run through both; every figure but the ``interval`` is over all of them.

    ``compression`` is there where weights are integers; ``threshold_db`` then follows from what rounding them costs,
    and is None where nothing says how they were rounded.
    """

    passed: bool
    runtime: str
    samples: int
    sqnr_db: float
    max_abs_error: float | None
    cosine: float
    top1_agreement: float
    disagreement_margin: float | None
    retrieval_agreement: float
    accuracy: float | None
    reference_accuracy: float | None
    threshold_db: float | None
    interval: Interval | None = None
    compression: Compression | None = None


def judge(
    reference: Array,
    measured: Array,
    labels: Array | None,
    recipe: Recipe,
    runtime: str,
    depth: int = DEPTH,
    floor: float = 0.0,
) -> Verdict:
    """Compare the outputs of an artifact with the original's, both (samples, …).

    ``depth`` is the original's. ``floor`` is what the kind of output costs in the mean square, however exact it is.
    """
    reference, measured = np.asarray(reference), np.asarray(measured)
    if reference.shape != measured.shape:
        raise ValueError(f"outputs of shape {measured.shape} cannot be compared with {reference.shape}")
    sqnr, threshold = metrics.sqnr_db(reference, measured), lowered(threshold_db(recipe, depth), reference, floor)
    return Verdict(
        passed=sqnr >= threshold,
        runtime=runtime,
        samples=len(reference),
        sqnr_db=sqnr,
        max_abs_error=metrics.max_abs_error(reference, measured),
        cosine=metrics.cosine(reference, measured),
        top1_agreement=metrics.top1_agreement(reference, measured),
        disagreement_margin=metrics.disagreement_margin(reference, measured),
        retrieval_agreement=metrics.retrieval_agreement(reference, measured),
        accuracy=None if labels is None else metrics.accuracy(measured, labels),
        reference_accuracy=None if labels is None else metrics.accuracy(reference, labels),
        threshold_db=threshold,
    )


def judge_all(
    references: Sequence[Array],
    measured: Sequence[Array],
    outputs: Sequence[TensorSpec],
    labels: Array | None,
    recipe: Recipe,
    runtime: str,
    depth: int = DEPTH,
) -> Verdict:
    """The verdict on the output that keeps its threshold by the least, or misses it by the most.

    Args:
        outputs: the artifact's.
        depth: the original's longest chain of operations that round.
    """
    if len(references) != len(measured):
        raise ValueError(f"the artifact has {len(measured)} outputs, the original {len(references)}")
    verdicts = [
        judge(in_kind(r, spec), m, labels, recipe, runtime, depth, WHOLE if spec.dtype == PICTURE else 0.0)
        for r, m, spec in zip(references, measured, outputs, strict=True)
    ]
    return min(verdicts, key=lambda verdict: verdict.sqnr_db - required(verdict))


def required(verdict: Verdict) -> float:
    """The threshold of a verdict that has one, which all have that compare with a network whose rounding is known."""
    assert verdict.threshold_db is not None
    return verdict.threshold_db


def in_kind(reference: Array, output: TensorSpec) -> Array:
    """The original's output as an artifact gives it that does more than the original: probabilities, or a picture."""
    if output.dtype == PROBABILITIES:
        return softmax(reference)
    return pictured(reference) if output.dtype == PICTURE else reference


def pictured(values: Array) -> Array:
    """(n, channels, H, W) from 0 to 255, in RGB order or grey → (n, H, W, 3) or (n, H, W); not rounded."""
    if values.ndim != 4 or values.shape[1] not in (1, 3):
        raise ValueError(f"outputs of shape {values.shape[1:]} cannot be compared with a picture")
    limited = np.clip(values, 0, 255)
    return limited[:, 0] if values.shape[1] == 1 else limited.transpose(0, 2, 3, 1)


def lowered(threshold: float, reference: Array, floor: float) -> float:
    """The threshold in dB for outputs of which each number may besides be off by ``floor`` in the mean square."""
    signal = float(np.square(np.asarray(reference, np.float64)).mean())
    if not floor or not signal:
        return threshold
    return float(-10 * math.log10(10 ** (-threshold / 10) + floor / signal))


def blind(references: Sequence[Array]) -> str | None:
    """Why a comparison with the original's outputs would tell nothing, as a sentence; None where it tells something.

    What answers one and the same to everything, as a network does whose last layer is still zeros, is matched by an
    artifact that has lost all other layers.
    """
    lost = [int((~np.isfinite(metrics.flat(r)).all(axis=1)).sum()) for r in references]
    count = len(references[0])
    if max(lost):
        return f"the original itself answers {max(lost):,} of {count:,} inputs with numbers that are infinite or NaN"
    if count > 1 and all((r == r[:1]).all() for r in map(np.asarray, references)):
        return f"the original answers all {count:,} inputs alike, so that nothing tells an artifact from any other"
    return None


def eased(
    faithful: Verdict, networks: Sequence[Array], simulated: Sequence[Array], outputs: Sequence[TensorSpec]
) -> Verdict:
    """The comparison with the network with rounded weights, for an artifact that rounds activations as they come.

    It may be as far from that network as PyTorch is that rounds them, and :data:`AGAIN` further: a difference in the
    last place of a number turns it to another whole number here and there, so that the two do not stay near each other.

    Args:
        faithful: the comparison, with the threshold of the arithmetic alone.
        networks: what PyTorch answers with rounded weights.
        simulated: and with activations rounded too.
        outputs: the artifact's.
    """
    pairs = zip(networks, simulated, outputs, strict=True)
    found = min(metrics.sqnr_db(in_kind(n, spec), in_kind(s, spec)) for n, s, spec in pairs)
    threshold = min(required(faithful), found - AGAIN)
    return replace(faithful, threshold_db=threshold, passed=faithful.sqnr_db >= threshold)


def judge_compressed(
    losses: Verdict,
    faithful: Verdict,
    references: Sequence[Array],
    networks: Sequence[Array],
    outputs: Sequence[TensorSpec],
    recipe: Recipe,
    budget: Budget = BUDGET,
) -> Verdict:
    """The verdict on an artifact with integer weights: whether it computes what it should, and what that costs.

    Args:
        losses: of the artifact, beside the original.
        faithful: of the artifact, beside the network with the same rounded weights.
        references: the original's outputs.
        networks: those of the network with the same roundings.
        outputs: the artifact's.
        recipe: where it rounds activations as well, a number that falls on the other side of a rounding, for sums are
            computed in another order, is as far off as rounding itself: the artifact may be as far from the rounded
            network as two are from each other that were rounded independently, each as far from the original as
            that one: :data:`AGAIN` further.
        budget: what rounding may cost.
    """
    pairs = zip(references, networks, outputs, strict=True)
    network = min(metrics.sqnr_db(in_kind(r, spec), in_kind(n, spec)) for r, n, spec in pairs)
    kept = within(losses, budget)
    threshold = required(faithful) if recipe.activations is None else min(required(faithful), network - AGAIN)
    found = Compression(faithful.sqnr_db, threshold, network, budget.drop, budget.retrieval, kept)
    return replace(
        losses,
        passed=bool(found.faithful) and kept,
        threshold_db=least_db(network, threshold),
        compression=found,
    )


def judge_loss(losses: Verdict, budget: Budget) -> Verdict:
    """The verdict on an artifact with integers of which nothing says how they were rounded: what they cost is all.

    Args:
        losses: of the artifact, beside the original.
        budget: what rounding may cost.
    """
    kept = within(losses, budget)
    found = Compression(None, None, None, budget.drop, budget.retrieval, kept)
    return replace(losses, passed=kept, threshold_db=None, compression=found)


def with_layers(verdict: Verdict, layers: Comparison | None) -> Verdict:
    """The verdict with what was read of the artifact's layers. It does not pass where one is not as it was rounded."""
    if verdict.compression is None or layers is None:
        return verdict
    compression = replace(verdict.compression, layers=layers)
    return replace(verdict, compression=compression, passed=verdict.passed and not layers.wrong)


def within(verdict: Verdict, budget: Budget) -> bool:
    """Whether an artifact lost no more than it may."""
    return drop(verdict) <= budget.drop and verdict.retrieval_agreement >= budget.retrieval


def drop(verdict: Verdict) -> float:
    """Accuracy that was lost, as a share of all inputs; 0 where their classes are not known."""
    if verdict.accuracy is None or verdict.reference_accuracy is None:
        return 0.0
    return round(verdict.reference_accuracy - verdict.accuracy, 9)  # the two are shares of a few thousand at most


def least_db(network_db: float, arithmetic_db: float) -> float:
    """SQNR beside the original of all that is so near to a network that is ``network_db`` from it.

    Amplitudes of noise add at most: that of the rounded weights, and that of arithmetic on what these make.
    """
    weights, arithmetic = 10 ** (-network_db / 20), 10 ** (-arithmetic_db / 20)
    return -20 * math.log10(weights + arithmetic * (1 + weights))


def bounded(verdict: Verdict, interval: Interval | None) -> Verdict:
    """The verdict with the interval beside it. It no longer passes where the numerics that it judges overflow."""
    overflows = interval is not None and interval.overflow is not None and interval.overflow.numerics == JUDGED
    return replace(verdict, interval=interval, passed=verdict.passed and not overflows)


def softmax(logits: Array) -> Array:
    """Along the last axis, in double precision."""
    shifted = np.asarray(logits, np.float64)
    raised = np.exp(shifted - shifted.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True))
