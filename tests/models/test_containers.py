"""What a checkpoint says of itself, and what is made of it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from safetensors.torch import save_file

from lvexport.models.build import build
from lvexport.models.containers import Carried, carried
from lvexport.models.errors import WeightsError
from lvexport.models.preprocessing import Preprocessing
from lvexport.models.provenance import Provenance, choose_weights, describe
from lvexport.models.registry import ENTRIES

PREPARED = Preprocessing((0.5, 0.4, 0.3), (0.2, 0.2, 0.2), "bilinear", 0.8)
WRITTEN = {
    "model": "mobilevit_xxs",
    "classes": json.dumps(["cat", "dog"]),
    "imgsz": "96",
    "preprocessing": json.dumps(asdict(PREPARED)),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as lvexport's training writes it."""
    path = tmp_path_factory.mktemp("trained") / "pets.safetensors"
    model = build("mobilevit_xxs", weights="random", num_classes=2)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path, WRITTEN)
    return path


def test_metadata_is_read_as_it_was_written(trained: Path) -> None:
    assert carried(trained) == Carried("mobilevit_xxs", ("cat", "dog"), 96, PREPARED)


def test_a_checkpoint_says_what_it_was_trained_for(trained: Path) -> None:
    found = build("mobilevit_xxs", weights=trained).provenance
    assert isinstance(found, Provenance)
    assert (found.num_classes, found.imgsz, found.labels) == (2, 96, ("cat", "dog"))
    assert found.preprocessing == PREPARED


def test_what_is_typed_comes_before_what_the_checkpoint_says(trained: Path) -> None:
    found = describe(ENTRIES["mobilevit_xxs"], choose_weights("mobilevit_xxs", trained), imgsz=64)
    assert (found.num_classes, found.imgsz) == (2, 64)


def test_a_checkpoint_of_another_network_names_the_right_command(trained: Path) -> None:
    with pytest.raises(WeightsError, match=f"lvexport mobilevit_xxs --weights {trained}"):
        build("mobilevit_s", weights=trained)


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"format": "pt"},
        {"model": "yolo", "classes": "3", "imgsz": "[640, 640]", "preprocessing": "letterbox"},
        {"classes": '{"0": "cat"}', "preprocessing": '{"size": 224}', "imgsz": "large"},
    ],
)
def test_metadata_of_others_changes_nothing(metadata: dict[str, str], trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    model = build("mobilevit_xxs", weights=trained)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path, metadata)
    found = describe(ENTRIES["mobilevit_xxs"], choose_weights("mobilevit_xxs", path))
    assert (found.num_classes, found.imgsz, found.labels) == (1000, 256, ())
    assert found.preprocessing == ENTRIES["mobilevit_xxs"].preprocessing
