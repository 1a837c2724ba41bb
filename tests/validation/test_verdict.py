"""Thresholds follow from the precision, and verdicts from thresholds."""

from __future__ import annotations

import numpy as np
import pytest

from lvexport.converters.contract import Recipe, TensorSpec
from lvexport.converters.recipes import FP16, FP32, RECIPES, W8, W8A8
from lvexport.validation.contract import PICTURE, PROBABILITIES, Overflow
from lvexport.validation.verdict import (
    DEPTH,
    TERMS,
    Budget,
    Interval,
    blind,
    bounded,
    eased,
    judge,
    judge_all,
    judge_compressed,
    least_db,
    softmax,
    threshold_db,
)


def test_thresholds_are_those_documented() -> None:
    assert threshold_db(FP32) == pytest.approx(90.3, abs=0.05)
    assert threshold_db(FP16) == pytest.approx(45.2, abs=0.05)


def test_deep_programs_round_more_often() -> None:
    for recipe in (FP32, FP16):
        assert threshold_db(recipe) - threshold_db(recipe, 2 * DEPTH) == pytest.approx(10 * np.log10(2))
        assert threshold_db(recipe, 3) == threshold_db(recipe)
    r = np.random.default_rng(0).normal(size=(100, 10))
    noisy = r * (1 + 10 ** (-44 / 20))
    assert not judge(r, noisy, None, FP16, "test").passed
    assert judge(r, noisy, None, FP16, "test", depth=256).passed


def rounded_to(bits: int, values: np.ndarray) -> np.ndarray:
    """Nearest numbers with so many significant bits."""
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.round(mantissa * 2.0**bits) / 2.0**bits, exponent)


@pytest.mark.parametrize("bits", [11, 24])
def test_the_model_behind_the_thresholds(bits: int) -> None:
    """Rounding N times in a row to p bits leaves at least 6.02·p - 10·log10(N) dB: measured on a chain of products."""
    random = np.random.default_rng(0)
    exact = random.normal(size=4000)
    chain = exact.copy()
    for _ in range(DEPTH):
        factor = 1 + 0.1 * random.normal(size=exact.shape)
        exact, chain = exact * factor, rounded_to(bits, chain * factor)
    measured = 10 * np.log10(np.square(exact).sum() / np.square(exact - chain).sum())
    assert measured > 20 * np.log10(2) * bits - 10 * np.log10(DEPTH)


def test_single_precision_is_granted_its_sums() -> None:
    assert threshold_db(FP32) - (20 * np.log10(2) * 24 - 10 * np.log10(DEPTH)) == pytest.approx(-10 * np.log10(TERMS))


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda r: r.name)
@pytest.mark.parametrize(("off", "passes"), [(1, True), (-1, False)])
def test_the_verdict_turns_at_the_threshold(recipe: object, off: float, passes: bool) -> None:
    r = np.random.default_rng(0).normal(size=(100, 10))
    noise = 10 ** (-(threshold_db(recipe) + off) / 20)  # type: ignore[arg-type]
    verdict = judge(r, r * (1 + noise), None, recipe, "test")  # type: ignore[arg-type]
    assert verdict.passed is passes
    assert verdict.samples == 100


def test_nan_fails() -> None:
    r = np.ones((5, 3))
    assert not judge(r, r * np.nan, None, FP16, "test").passed


def test_an_original_that_tells_nothing_is_seen() -> None:
    varied, same = np.eye(3), np.ones((3, 4))
    assert blind([varied]) is None
    assert blind([same, varied]) is None  # such as anchors beside what is found at them
    assert blind([same[:1]]) is None
    assert "answers all 3 inputs alike" in str(blind([same, same]))
    assert "1 of 3 inputs with numbers that are infinite or NaN" in str(blind([varied, np.diag([1, 2, np.nan])]))


def test_an_overflow_fails_whatever_the_decibels_say() -> None:
    r = np.ones((5, 3))
    good, bad = judge(r, r, None, FP16, "test"), judge(r, r * 2, None, FP16, "test")
    decibels = {"rounded": 60.0, "pessimistic": 3.0}
    assert bounded(good, None) == good
    assert bounded(good, Interval(4, decibels, None)).passed  # the interval's decibels are not what is judged
    assert not bounded(bad, Interval(4, decibels, None)).passed
    assert bounded(good, Interval(4, decibels, Overflow("pessimistic", "reduce_mean"))).passed  # only a warning
    overflown = bounded(good, Interval(4, decibels, Overflow("rounded", "mul (which makes 'x')")))
    assert not overflown.passed
    assert overflown.sqnr_db == good.sqnr_db


def test_accuracy_of_both_sides_is_given_where_labels_are() -> None:
    r = np.eye(3)
    verdict = judge(r, np.roll(r, 1, axis=1), np.array([0, 1, 2]), FP32, "test")
    assert (verdict.accuracy, verdict.reference_accuracy) == (0, 1)


def test_the_worst_output_decides() -> None:
    r = np.random.default_rng(0).normal(size=(20, 4))
    specs = (TensorSpec("a", (1, 4), "float32"), TensorSpec("b", (1, 4), "float32"))
    assert judge_all([r, r], [r, r], specs, None, FP32, "test").passed
    assert not judge_all([r, r], [r, r * 1.01], specs, None, FP32, "test").passed


def test_probabilities_are_compared_with_probabilities() -> None:
    logits = np.random.default_rng(0).normal(size=(20, 4))
    spec = (TensorSpec("p", (1, 4), PROBABILITIES),)
    assert judge_all([logits], [softmax(logits)], spec, None, FP32, "test").passed
    assert not judge_all([logits], [logits], spec, None, FP32, "test").passed


def test_outputs_that_do_not_match_are_an_error() -> None:
    r = np.ones((5, 3))
    with pytest.raises(ValueError, match="shape"):
        judge(r, np.ones((5, 4)), None, FP32, "test")
    with pytest.raises(ValueError, match="outputs"):
        judge_all([r], [], (), None, FP32, "test")


def test_pictures_are_compared_as_whole_numbers() -> None:
    values = np.random.default_rng(3).uniform(-20, 280, (5, 3, 8, 8)).astype(np.float32)
    spec = (TensorSpec("picture", (8, 8, 3), PICTURE),)
    limited = values.clip(0, 255).transpose(0, 2, 3, 1)
    for whole in (limited.round(), np.floor(limited)):
        assert judge_all([values], [whole.astype(np.uint8)], spec, None, FP32, "test").passed
    for wrong in (limited[..., ::-1].round(), (limited * 0.98).round(), limited.round() + 1):
        assert not judge_all([values], [wrong.clip(0, 255).astype(np.uint8)], spec, None, FP32, "test").passed
    grey = (TensorSpec("picture", (8, 8), PICTURE),)
    assert judge_all([values[:, :1]], [limited[..., 0].round().astype(np.uint8)], grey, None, FP32, "test").passed
    with pytest.raises(ValueError, match="cannot be compared with a picture"):
        judge_all([values[:, :2]], [limited[..., 0]], grey, None, FP32, "test")


ONE = (TensorSpec("y", (1, 10), "float32"),)


def noisy(r: np.ndarray, db: float, seed: int = 1) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=r.shape)
    return r + noise * np.linalg.norm(r) / np.linalg.norm(noise) * 10 ** (-db / 20)


@pytest.mark.parametrize(
    ("off", "loss", "passes"),
    [
        (100, 40, True),  # computes what it should, at little cost
        (80, 40, False),  # costs as little, and is not what it should compute
        (100, 0, False),  # computes what it should, and that is too far from the original
    ],
)
def test_integers_are_judged_by_what_they_should_compute_and_by_what_they_cost(
    off: float, loss: float, passes: bool
) -> None:
    r = np.random.default_rng(0).normal(size=(200, 10))
    network = noisy(r, loss)
    measured = noisy(network, off, seed=2)
    losses, faithful = judge(r, measured, None, FP32, "test"), judge(network, measured, None, FP32, "test")
    verdict = judge_compressed(losses, faithful, [r], [network], ONE, W8)
    assert verdict.passed is passes
    assert verdict.compression is not None
    assert verdict.compression.faithful is (off > 90)
    assert verdict.compression.within_budget is (loss > 10)
    assert verdict.compression.network_db == pytest.approx(loss)
    assert not verdict.passed or verdict.sqnr_db >= verdict.threshold_db


@pytest.mark.parametrize(("off", "passes"), [(41, True), (37.5, True), (36.5, False), (20, False)])
def test_roundings_of_activations_may_be_made_once_more(off: float, passes: bool) -> None:
    network = np.random.default_rng(0).normal(size=(200, 10))
    faithful = judge(network, noisy(network, off), None, FP32, "test")
    assert not faithful.passed
    found = eased(faithful, [network], [noisy(network, 40, seed=2)], ONE)
    assert found.threshold_db == pytest.approx(40 - 3.01, abs=0.01)
    assert found.passed is passes


@pytest.mark.parametrize(("recipe", "off", "passes"), [(W8A8, 29.5, True), (W8A8, 26.5, False), (W8, 29.5, False)])
def test_fixed_roundings_of_activations_may_be_made_once_more(recipe: Recipe, off: float, passes: bool) -> None:
    r = np.random.default_rng(0).normal(size=(200, 10))
    network = noisy(r, 30)
    measured = noisy(network, off, seed=2)
    losses, faithful = judge(r, measured, None, FP32, "test"), judge(network, measured, None, FP32, "test")
    found = judge_compressed(losses, faithful, [r], [network], ONE, recipe).compression
    assert found is not None
    assert found.faithful is passes


def test_independent_roundings_are_faithful_to_each_other() -> None:
    r = np.random.default_rng(0).normal(size=(2000, 10))
    network, measured = noisy(r, 30), noisy(r, 30.1, seed=2)
    losses, faithful = judge(r, measured, None, FP32, "test"), judge(network, measured, None, FP32, "test")
    found = judge_compressed(losses, faithful, [r], [network], ONE, W8A8).compression
    assert found is not None
    assert found.faithful


def test_what_rounding_activations_does_not_change_needs_no_ease() -> None:
    network = np.random.default_rng(0).normal(size=(200, 10))
    faithful = judge(network, network, None, FP32, "test")
    assert eased(faithful, [network], [network], ONE) == faithful


def test_a_drop_of_accuracy_beyond_the_budget_fails() -> None:
    r = np.eye(10).repeat(20, axis=0)
    labels = r.argmax(axis=1)
    measured = r.copy()
    measured[:3] = measured[:3, ::-1]
    losses = judge(r, measured, labels, FP32, "test")
    faithful = judge(measured, measured, None, FP32, "test")
    tight = judge_compressed(losses, faithful, [r], [measured], ONE, W8, Budget(drop=0.014, retrieval=0.5))
    wide = judge_compressed(losses, faithful, [r], [measured], ONE, W8, Budget(drop=0.015, retrieval=0.5))
    assert (tight.passed, wide.passed) == (False, True)


@pytest.mark.parametrize(("network", "arithmetic"), [(20, 45), (46, 45), (46, 90), (300, 90)])
def test_no_faithful_artifact_is_below_its_least(network: float, arithmetic: float) -> None:
    r = np.random.default_rng(0).normal(size=(50, 10))
    rounded = noisy(r, network)
    worst = rounded + (rounded - r) / np.linalg.norm(rounded - r) * np.linalg.norm(rounded) * 10 ** (-arithmetic / 20)
    assert judge(r, worst, None, FP32, "test").sqnr_db == pytest.approx(least_db(network, arithmetic), abs=1)
    assert judge(r, worst, None, FP32, "test").sqnr_db >= least_db(network, arithmetic) - 1e-6
