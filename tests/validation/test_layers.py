"""Layers read back from artifacts: what counts as the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lvexport.validation.integers.layers import Grid, Layer, compare, digest, nibbles, packed, unpacked

SCALES = np.array([0.01, 0.02, 9.16421e-07])


def layer(scales: np.ndarray = SCALES, given: Grid | None = (0.1, 3), output: Grid | None = (0.2, -5)) -> Layer:
    return Layer("one", digest(np.arange(12, dtype=np.int8).reshape(3, 4), 0), scales, given, output)


def test_the_same_in_another_layout_and_in_half_precision_is_the_same() -> None:
    rows = np.arange(12, dtype=np.int8).reshape(3, 2, 2)
    assert digest(rows, 0) == digest(rows.transpose(1, 2, 0), 2) == layer().digest
    halved = layer(SCALES.astype(np.float16).astype(np.float64))
    assert compare([layer()], [halved]).wrong == {}
    least = float(np.finfo(np.float16).smallest_subnormal)
    tiny = SCALES * np.array([1, 1e-9, 1])
    raised = layer(np.where(tiny < least, least, tiny))
    assert compare([layer(tiny)], [raised]).wrong == {}
    assert compare([layer(tiny)], [layer(raised.scales * np.array([1, 2, 1]))]).wrong != {}


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (layer(given=(0.1, 4)), "zero point of what it is given is 4"),
        (layer(output=(0.21, -5)), "scale of what it gives"),
        (layer(given=None), "not rounded"),
        (layer(SCALES[[1, 0, 2]]), "scale 0 is"),
        (layer(SCALES * np.array([1, 1, 1.02])), "scale 2 is"),
        (layer(SCALES[:1]), "1 scales and not 3"),
        (Layer("two", "0" * 64, SCALES, None, None), "no layer"),
    ],
)
def test_what_is_not_the_same_is_said(found: Layer, words: str) -> None:
    comparison = compare([layer()], [found])
    assert words in comparison.wrong["one"]
    assert comparison.found == (found.digest == layer().digest)


BARE = Layer("weights", "1" * 64, SCALES, None, None)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ([], None),
        ([replace(BARE, name="two")], None),
        ([replace(BARE, scales=SCALES[[1, 0, 2]])], "scale 0 is"),
        ([BARE, replace(BARE, name="two", digest="2" * 64)], "not those of a rounded weight"),
    ],
)
def test_of_weights_alone_an_artifact_may_have_fewer_and_no_others(found: list[Layer], words: str | None) -> None:
    comparison = compare([BARE, replace(BARE, digest="3" * 64)], found)
    assert comparison.found == bool(found)
    assert [why for why in comparison.wrong.values() if words is None or words not in why] == []
    assert bool(comparison.wrong) == (words is not None)


def test_four_bits_lie_two_in_a_byte() -> None:
    assert list(nibbles(np.array([0x21, 0xF8], np.uint8), 3)) == [1, 2, -8]


def test_layers_are_kept_as_arrays() -> None:
    (again,) = unpacked(packed([layer()]))
    assert again.name == "one"
    assert compare([again], [layer()]).wrong == {}
