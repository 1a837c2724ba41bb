"""What is said of a model in place of what is known of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import lvexport
from lvexport.errors import UsageError
from lvexport.models.preprocessing import Preprocessing
from lvexport.overrides import NOTHING_SAID, read
from lvexport.source import resolve
from tests.conftest import Run

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"mean": "0.5,0.5"}, "--mean takes three numbers"),
    ({"mean": "a,b,c"}, "--mean takes three numbers"),
    ({"std": (1.0, 1.0, float("nan"))}, "--std takes three numbers"),
    ({"std": "1,0,1"}, "more than 0"),
    ({"crop_pct": 0.0}, "at most 1"),
    ({"crop_pct": 1.5}, "at most 1"),
    ({"interpolation": "lanczos"}, "bilinear or bicubic"),
    ({"labels": "no/such/file"}, "No such file"),
    ({"labels": ["a", ""]}, "one label for each class"),
    ({"labels": []}, "one label for each class"),
]


@pytest.mark.parametrize(("said", "words"), REFUSED, ids=str)
def test_what_cannot_be_is_refused(said: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        read(**said)


def test_what_was_not_said_stays_as_it_is_known() -> None:
    known = Preprocessing((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bicubic", 0.9, "BGR")
    assert NOTHING_SAID.preprocessing(known) == known
    said = read("0.5, 0.5, 0.5", crop_pct=0.8).preprocessing(known)
    assert said == Preprocessing((0.5, 0.5, 0.5), (0.4, 0.5, 0.6), "bicubic", 0.8, "BGR")


@pytest.mark.parametrize("text", ["cat\nBrand X, red\n", '["cat", "Brand X, red"]\n'], ids=["lines", "json"])
def test_labels_from_a_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "labels"
    path.write_text(text)
    assert read(labels=path).labels == ("cat", "Brand X, red")


def test_a_broken_json_list_of_labels_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    path.write_text('["cat", ')
    with pytest.raises(UsageError, match="JSON list"):
        read(labels=path)


def test_labels_are_counted_before_a_registry_network_is_built() -> None:
    with pytest.raises(UsageError, match="2 labels, and mobilevit_xxs answers with 10 classes"):
        resolve("mobilevit", "demo", overrides=read(labels=["a", "b"]))


def test_overrides_reach_manifest_and_verdict(lvexport: Run, tmp_path: Path) -> None:
    """A model that answers with the mean of each colour, so that the outputs tell how the pictures were prepared."""
    (tmp_path / "mine.py").write_text(
        "import torch\nclass Mine(torch.nn.Module):\n    def forward(self, x):\n        return x.mean((2, 3))\n"
    )
    (tmp_path / "labels.txt").write_text("red\ngreen\nblue\n")
    how = ("--mean", "0.1,0.2,0.3", "--std", "0.5,0.5,0.25", "--crop-pct", "0.9", "--interpolation", "bicubic")
    line = ("mine.py:Mine", "--imgsz", "32", "--to", "onnx", "--samples", "20", *how, "--labels", "labels.txt")
    done = lvexport(*line, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["input"]["mean"] == [0.1, 0.2, 0.3]
    assert document["input"]["std"] == [0.5, 0.5, 0.25]
    assert document["input"]["resize"] == {"imgsz": 32, "interpolation": "bicubic", "crop_pct": 0.9}
    assert document["labels"] == ["red", "green", "blue"]
    (tmp_path / "labels.txt").write_text("red\ngreen\n")
    done = lvexport(*line, cwd=tmp_path)
    assert done.returncode == 2
    assert "2 labels, and mine-Mine answers with 3 classes" in done.stderr


def test_how_pictures_are_prepared_cannot_be_said_of_golden_vectors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--against MODEL"):
        lvexport.verify(tmp_path, mean=(0.5, 0.5, 0.5))
