"""Counts of right answers, and the statistics on them, against published and exactly computed values."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from lvexport.validation.accuracy import Tally, count, finding, mcnemar, wilson

# Newcombe, Statistics in Medicine 17, 1998, table I, method 3.
PUBLISHED = [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)]


@pytest.mark.parametrize(("right", "images", "low", "high"), PUBLISHED)
def test_wilson_as_published(right: int, images: int, low: float, high: float) -> None:
    assert wilson(right, images) == pytest.approx((low, high), abs=5e-5)


def test_wilson_at_the_other_end_and_of_nothing() -> None:
    low, high = wilson(20, 20)
    assert (low, high) == (pytest.approx(1 - 0.1611, abs=5e-5), 1.0)
    assert wilson(0, 0) == (0.0, 1.0)


def test_wilson_holds_the_share_it_was_drawn_from() -> None:
    random = np.random.default_rng(0)
    drawn = random.binomial(200, 0.9, 2000)
    held = [low <= 0.9 <= high for low, high in (wilson(int(right), 200) for right in drawn)]
    assert 0.93 < np.mean(held) < 0.97


def exact(b: int, c: int) -> float:
    """The two tails of the binomial distribution, in whole numbers."""
    n = b + c
    tail = sum(math.comb(n, k) for k in range(min(b, c) + 1))
    return float(min(Fraction(1), Fraction(2 * tail, 2**n)))


@pytest.mark.parametrize(("b", "c"), [(2, 10), (10, 2), (0, 1), (0, 6), (7, 8), (59, 6), (950, 1050), (0, 2000)])
def test_mcnemar_is_the_binomial_test(b: int, c: int) -> None:
    assert mcnemar(b, c) == pytest.approx(exact(b, c), rel=1e-9)


def test_mcnemar_by_hand() -> None:
    assert mcnemar(2, 10) == pytest.approx(2 * (1 + 12 + 66) / 4096)
    assert mcnemar(0, 0) == mcnemar(300, 300) == 1.0


def test_what_is_said_of_the_counts() -> None:
    assert finding(10, 2) == "worse"
    assert finding(2, 10) == "better"
    assert finding(9, 3) == "no difference shown"


def test_the_same_network_is_seldom_called_worse() -> None:
    random = np.random.default_rng(1)
    tosses = random.binomial(60, 0.5, 4000)
    assert np.mean([finding(int(b), 60 - int(b)) != "no difference shown" for b in tosses]) < 0.05


def test_count_by_hand() -> None:
    labels = np.array([0, 1, 6, 3])
    reference = np.eye(7)[[0, 1, 0, 3]]  # the third is wrong, and its label is the last of six equal ones
    measured = np.eye(7)[[0, 2, 6, 3]]
    assert count(reference, measured, labels) == Tally(4, 3, 4, 3, 3, 1, 1)


def test_counts_of_parts_add_up() -> None:
    random = np.random.default_rng(2)
    reference, measured = random.normal(size=(2, 101, 10))
    labels = random.integers(0, 10, 101)
    cuts = [slice(0, 40), slice(40, 41), slice(41, 101)]
    total = sum((count(reference[cut], measured[cut], labels[cut]) for cut in cuts), Tally())
    assert total == count(reference, measured, labels)
    assert total.top1 - total.original_top1 == total.only_artifact - total.only_original


def test_numbers_that_are_none_are_never_first() -> None:
    measured = np.array([[np.nan, 1.0, 0.0]])
    assert count(measured, measured, np.array([1])).top1 == 1
    assert count(measured, measured, np.array([0])).top1 == 0
