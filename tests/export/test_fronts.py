"""What a search's choice is seen beside: which points are on the front, and how it stands in the bundle."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lvexport
from lvexport.converters.quantization.search import others
from lvexport.errors import UsageError
from lvexport.fronts import latency
from lvexport.pareto import ALIKE, Costs, front
from tests.networks import SIDE, small

EVEN = st.builds(
    Costs, st.integers(1, 4), st.none() | st.sampled_from([1.0, 2.0, 3.0]), st.sampled_from([-0.01, 0.0, 0.02])
)


def test_what_another_beats_in_everything_is_off_the_front() -> None:
    floating, integers, between, worse = (
        Costs(400, 2.0, 0.0),
        Costs(100, 1.0, 0.02),
        Costs(120, 1.1, 0.005),
        Costs(130, 1.2, 0.006),
    )
    assert front([floating, integers, between, worse]) == [True, True, True, False]


@pytest.mark.parametrize("other", [Costs(99, 1.2, 0.006), Costs(121, 1.0, 0.006), Costs(121, 1.2, 0.004)])
def test_what_is_better_in_one_thing_is_on_it(other: Costs) -> None:
    assert front([Costs(100, 1.1, 0.005), other]) == [True, True]


def test_alike_points_do_not_beat_each_other() -> None:
    assert front([Costs(100, 1.0, 0.0)] * 2) == [True, True]


def test_latencies_that_timing_cannot_tell_apart_decide_nothing() -> None:
    larger = Costs(110, 1.0, 0.001)
    assert front([larger, Costs(100, 1.0 + ALIKE / 2, 0.001)]) == [False, True]
    assert front([larger, Costs(100, 1.0 + 3 * ALIKE, 0.001)]) == [True, True]


def test_without_latencies_size_and_accuracy_decide() -> None:
    assert front([Costs(100, None, 0.0), Costs(110, None, 0.0), Costs(90, None, 0.1)]) == [True, False, True]


@given(st.lists(EVEN.filter(lambda one: one.latency is not None), min_size=1, max_size=8))
def test_a_front_is_what_nothing_dominates_and_dominates_the_rest(points: list[Costs]) -> None:
    on = [point for point, is_on in zip(points, front(points), strict=True) if is_on]
    assert on
    assert not any(a.dominates(b) for a in on for b in on)
    assert all(point in on or any(better.dominates(point) for better in on) for point in points)


@pytest.mark.parametrize(
    ("chosen", "layers", "more", "expected"),
    [
        (0, 50, 0, []),  # nothing lies between floating point and integers everywhere
        (0, 50, 3, [1, 2, 4]),
        (0, 3, 9, [1, 2]),
        (8, 50, 0, [0]),
        (8, 50, 4, [0, 4, 16, 2, 32]),
        (1, 12, 2, [0, 2, 4]),
        (12, 12, 1, [0, 6]),
    ],
)
def test_other_choices_halve_and_double(chosen: int, layers: int, more: int, expected: list[int]) -> None:
    assert others(chosen, layers, more) == expected


def test_a_latency_is_over_all_turns() -> None:
    found = latency([[1.0, 2.0], [3.0, 4.0], [5.0]])
    assert (found.median, found.quartiles, found.runs) == (3.0, (1.5, 4.5), 5)


def test_fewer_choices_than_none_are_refused() -> None:
    with pytest.raises(UsageError, match="fewer choices than none"):
        lvexport.export(small(), "onnx", "mixed", imgsz=SIDE, front=-1)
