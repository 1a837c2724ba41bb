"""The measures against their definitions, and against cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lvexport.validation import metrics

FLOATS = arrays(np.float64, (6, 4), elements=st.floats(-1e3, 1e3))


def test_sqnr_of_one_part_in_a_thousand_is_60_db() -> None:
    r = np.ones((10, 5))
    assert metrics.sqnr_db(r, r * 1.001) == pytest.approx(60, abs=1e-6)


def test_sqnr_is_bounded_so_that_json_can_hold_it() -> None:
    r = np.ones((2, 3))
    assert metrics.sqnr_db(r, r) == metrics.LIMIT_DB
    assert metrics.sqnr_db(r, np.full((2, 3), np.nan)) == -metrics.LIMIT_DB
    assert metrics.sqnr_db(np.zeros((2, 3)), r) == -metrics.LIMIT_DB


@given(FLOATS, st.floats(1e-3, 1e3))
def test_sqnr_does_not_depend_on_the_unit(r: np.ndarray, unit: float) -> None:
    m = r + 0.01
    assert metrics.sqnr_db(r * unit, m * unit) == pytest.approx(metrics.sqnr_db(r, m), abs=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_outputs_that_are_not_finite_never_look_good(bad: float) -> None:
    r = np.arange(12.0).reshape(3, 4)
    m = r.copy()
    m[1, 2] = bad
    assert metrics.sqnr_db(r, m) == -metrics.LIMIT_DB
    assert metrics.max_abs_error(r, m) is None
    assert metrics.cosine(r, m) == 0
    assert metrics.retrieval_agreement(r, m) == 0


def test_largest_error_and_cosine() -> None:
    r = np.array([[1.0, 0.0], [0.0, 2.0]])
    m = np.array([[1.0, 0.5], [0.0, 2.0]])
    assert metrics.max_abs_error(r, m) == 0.5
    assert metrics.cosine(r, m) == pytest.approx((1 / np.hypot(1, 0.5) + 1) / 2)


def test_top1_agreement_and_margin() -> None:
    r = np.array([[3.0, 1.0], [1.0, 1.25], [0.0, 5.0]])
    m = np.array([[3.0, 1.0], [1.3, 1.2], [0.0, 5.0]])
    assert metrics.top1_agreement(r, m) == pytest.approx(2 / 3)
    assert metrics.disagreement_margin(r, m) == pytest.approx(0.25)
    assert metrics.disagreement_margin(r, r) is None


def test_accuracy() -> None:
    assert metrics.accuracy(np.eye(4), np.array([0, 1, 2, 0])) == 0.75


def test_retrieval_by_definition() -> None:
    random = np.random.default_rng(0)
    r = random.normal(size=(50, 8))
    m = r + random.normal(size=r.shape)
    distances = np.linalg.norm(m[:, None] - r[None], axis=2)
    expected = float((distances.argmin(axis=1) == np.arange(50)).mean())
    assert 0 < expected < 1
    assert metrics.retrieval_agreement(r, m) == expected


@given(st.integers(-6, 6))
def test_retrieval_withstands_a_common_offset(power: int) -> None:
    """All outputs far from zero and close together, as a network that has learned nothing gives them."""
    random = np.random.default_rng(1)
    r = random.normal(size=(40, 6)) + 10.0**power
    assert metrics.retrieval_agreement(r, r + 1e-9 * random.normal(size=r.shape)) == 1


def test_retrieval_counts_inputs_that_the_original_cannot_tell_apart() -> None:
    r = np.array([[1.0, 2.0], [1.0, 2.0], [5.0, 0.0]])
    assert metrics.retrieval_agreement(r, r) == 1
    assert metrics.retrieval_agreement(r, r + 0.01) == 1


def test_retrieval_sees_a_permutation_that_sqnr_of_close_outputs_does_not() -> None:
    r = 100 + 1e-4 * np.random.default_rng(2).normal(size=(30, 5))
    m = r[np.roll(np.arange(30), 1)]
    assert metrics.sqnr_db(r, m) > 100
    assert metrics.retrieval_agreement(r, m) < 0.2
