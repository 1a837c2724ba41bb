"""Labels of an artifact against those of its original."""

from __future__ import annotations

import re

import pytest

from lvexport.validation.labelling import mislabelled

LABELS = ("cat", "dog", "crane", "crane")


@pytest.mark.parametrize("artifact", [LABELS, (), ("cat", "dog", "crane", "crane (3)")])
def test_right_labels(artifact: tuple[str, ...]) -> None:
    assert mislabelled(LABELS, artifact) is None


def test_an_original_without_labels_has_none_to_compare() -> None:
    assert mislabelled((), LABELS) is None


@pytest.mark.parametrize(
    ("artifact", "message"),
    [
        (("dog", "crane", "crane", "cat"), "3 of 4 classes .* class 0 is 'dog' and should be 'cat'"),
        (("cat", "dog", "crane", "crane (2)"), "1 of 4 classes .* class 3 is 'crane \\(2\\)'"),
        (LABELS[:3], "3 labels and the original 4"),
    ],
)
def test_wrong_labels(artifact: tuple[str, ...], message: str) -> None:
    found = mislabelled(LABELS, artifact)
    assert found is not None
    assert re.search(message, found)
