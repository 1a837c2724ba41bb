"""Layers read back from artifacts: what counts as the same."""

from __future__ import annotations

import numpy as np
import pytest

from lvexport.validation.integers.layers import Grid, Layer, compare, digest, packed, unpacked

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
        (layer(SCALES[[1, 0, 2]]), "scale of channel"),
        (layer(SCALES * np.array([1, 1, 1.02])), "scale of channel 2"),
        (layer(SCALES[:1]), "1 scales for 3 channels"),
        (Layer("two", "0" * 64, SCALES, None, None), "no layer"),
    ],
)
def test_what_is_not_the_same_is_said(found: Layer, words: str) -> None:
    comparison = compare([layer()], [found])
    assert words in comparison.wrong["one"]
    assert comparison.found == (found.digest == layer().digest)


def test_layers_are_kept_as_arrays() -> None:
    (again,) = unpacked(packed([layer()]))
    assert again.name == "one"
    assert compare([again], [layer()]).wrong == {}
