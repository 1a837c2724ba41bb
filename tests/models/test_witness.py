"""The witness: a checkpoint whose task cannot be done without the global part of the network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import lvexport
from lvexport.converters.contract import TensorSpec
from lvexport.inputs import prepare
from lvexport.labelled import open_data
from lvexport.models.errors import WeightsError
from lvexport.models.mobilevit import MobileViTBlock
from lvexport.models.registry import demo
from lvexport.source import resolve
from lvexport.validation import sample

COLLAGES = 2000


@torch.inference_mode()
def right(model: nn.Module, count: int) -> int:
    """How many of the shipped collages a network has right."""
    made = sample.collages(count)
    pictures = torch.from_numpy(sample.fit(made.pixels, 96, "bilinear", 1.0)).permute(0, 3, 1, 2).float() / 255
    answers = torch.cat([model(part).argmax(1) for part in pictures.split(100)])
    return int((answers.numpy() == made.labels).sum())


def test_without_its_transformers_it_loses_twenty_points() -> None:
    model = lvexport.build("mobilevit_xxs", weights="witness")
    whole = right(model, COLLAGES)
    blocks = [block for block in model.modules() if isinstance(block, MobileViTBlock)]
    for block in blocks:
        block.transformer = nn.Sequential()
    assert len(blocks) == 3
    assert whole / COLLAGES >= 0.75
    assert (whole - right(model, COLLAGES)) / COLLAGES >= 0.2


def test_the_card_says_what_the_shipped_collages_say() -> None:
    card = demo("mobilevit_xxs", "witness").card  # type: ignore[union-attr]
    assert card["dataset"] == "collages"
    assert card["classes"] == list(sample.collages(1).classes)
    assert card["training_images"] == 60_000
    # The 2,000 images that these collages are made of are a part of the 10,000 that the card is about.
    shipped = right(lvexport.build("mobilevit_xxs", weights="witness"), 1000) / 1000
    assert card["test_accuracy"] == pytest.approx(shipped, abs=0.04)


def test_it_is_asked_for_by_name_and_given_collages(tmp_path: Path) -> None:
    source = resolve("mobilevit", weights="witness")
    assert source.bundle_name == "mobilevit_xxs-witness-96"
    assert source.labels[0] == "top left"
    specs = (TensorSpec("image", (1, 3, 96, 96), "float32"),)
    prepared = prepare(source, specs, 20, tmp_path / "inputs.safetensors")
    assert prepared.origin == "real images: collages of Fashion-MNIST, test part, dyed"
    assert list(prepared.labels) == list(sample.collages(20).labels)  # type: ignore[arg-type]
    assert open_data("builtin", source.labels, 8).count == 2000
    with pytest.raises(WeightsError, match=r"No witness weights ship.*witness weights \(mobilevit_xxs\)"):
        resolve("mobilevit_s", weights="witness")
