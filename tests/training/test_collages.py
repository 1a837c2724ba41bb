"""Collages: one answer each, drawn anew in each epoch and the same way each time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lvexport.models.build import fresh
from lvexport.models.preprocessing import Preprocessing
from lvexport.training import collages
from lvexport.training.data import Data
from lvexport.training.errors import TrainingError
from lvexport.training.fashion_mnist import Images
from lvexport.training.loop import Hooks, Trainer
from lvexport.training.run import begin
from lvexport.training.sampler import Pick
from lvexport.training.schedule import Schedule
from lvexport.training.workers import ALONE

SIZE = (96, 96)


@pytest.fixture
def images() -> Images:
    """Flat pictures, brighter from class to class, so that a collage shows what it is made of."""
    labels = np.random.default_rng(0).integers(0, 10, 200)
    return Images(np.broadcast_to(20 + 25 * labels[:, None, None], (200, 28, 28)).astype(np.uint8), labels)


def opened(images: Images, augment: bool) -> collages.Collages:
    return collages.Collages(images, Preprocessing(), augment, seed=3)


def picks(count: int, epoch: int) -> list[Pick]:
    return [Pick(i, SIZE, epoch) for i in range(count)]


def test_there_is_one_other_of_the_class_of_the_middle_one(images: Images) -> None:
    labels = images.labels
    layout = collages.Drawing(labels)(np.tile(np.arange(200), 20), np.random.default_rng(0))
    alike = labels[layout.cells] == labels[layout.cells[:, collages.CUE]][:, None]
    alike[:, collages.CUE] = False
    assert (alike.sum(1) == 1).all()
    np.testing.assert_array_equal(collages.PLACES[layout.answers], alike.argmax(1))
    another = layout.cells[np.arange(4000), collages.PLACES[layout.answers]]
    assert (another != layout.cells[:, collages.CUE]).all()
    assert np.bincount(layout.answers, minlength=8).min() > 400
    assert len(np.unique(layout.cells)) == 200


def test_what_is_seen_is_what_is_asked_for(images: Images) -> None:
    data = opened(images, augment=False)
    pictures, answers = data.__getitems__(picks(200, 0))
    assert pictures.shape == (200, 3, 96, 96)
    # Dyes are factors, so a cell over its own dye is the brightness of its class.
    middle = pictures[:, :, 16::32, 16::32].reshape(200, 3, 9) * 255
    brightness = middle / data.dyes[torch.from_numpy(data.fixed.cells)].reshape(200, 9, 3).transpose(1, 2)
    seen = torch.round((brightness.mean(1) - 20) / 25).long()
    np.testing.assert_array_equal(seen.numpy(), images.labels[data.fixed.cells])
    for row, answer in zip(seen.tolist(), answers.tolist(), strict=True):
        places = [
            name for name, cell in zip(collages.CLASSES, (0, 1, 2, 3, 5, 6, 7, 8), strict=True) if row[cell] == row[4]
        ]
        assert places == [collages.CLASSES[answer]]


def test_training_draws_anew_and_can_be_repeated(images: Images) -> None:
    data, again = opened(images, augment=True), opened(images, augment=True)
    first, second = data.__getitems__(picks(8, 1)), data.__getitems__(picks(8, 2))
    repeated = again.__getitems__(picks(8, 1))
    assert torch.equal(first[0], repeated[0])
    assert torch.equal(first[1], repeated[1])
    assert not torch.equal(first[1], second[1])


def test_the_first_epoch_is_easier(images: Images) -> None:
    data = opened(images, augment=True)

    def empty(epoch: int) -> torch.Tensor:
        pictures, _ = data.__getitems__(picks(200, epoch))
        return (pictures[:, :, 16::32, 16::32].sum(1) == 0).float().mean((1, 2))

    assert empty(0).mean() > 0.2
    assert empty(0).max() <= 7 / 9 + 1e-6
    assert empty(collages.EASY_EPOCHS).max() == 0


def test_a_training_begins_with_a_checkpoint_of_other_classes(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    known, model = fresh("mobilevit_xxs", 10, 1), fresh("mobilevit_xxs", 8, 2)
    classifier = model.classifier.weight.clone()  # type: ignore[union-attr, operator]
    save_file(known.state_dict(), tmp_path / "known.safetensors")
    begin(model, tmp_path / "known.safetensors", freeze=2)
    for name, value in model.state_dict().items():
        if not name.startswith("classifier."):
            assert torch.equal(value, known.state_dict()[name])
    assert torch.equal(model.classifier.weight, classifier)  # type: ignore[union-attr, arg-type]
    kept = {name.split(".")[0] + name.split(".")[1] for name, p in model.named_parameters() if not p.requires_grad}
    assert {name for name in kept if name.startswith("stages")} == {"stages0", "stages1"}
    assert any(name.startswith("stem") for name in kept)
    with pytest.raises(TrainingError, match="has 5 stages"):
        begin(model, tmp_path / "known.safetensors", 6)
    with pytest.raises(TrainingError, match="does not fit this network"):
        begin(fresh("mobilevit_xs", 8, 0), tmp_path / "known.safetensors", 0)


class Recording(collages.Collages):
    """Notes which epochs are read."""

    def __getitems__(self, picks: Sequence[Pick]) -> tuple[torch.Tensor, torch.Tensor]:
        self.__dict__.setdefault("epochs", []).append(picks[0].epoch)
        return super().__getitems__(picks)


def test_statistics_are_taken_of_collages_that_are_whole(images: Images) -> None:
    train = Recording(images, Preprocessing(), True, 0)
    data = Data("collages", train, opened(images, augment=False), Preprocessing())
    model = nn.Sequential(
        nn.Conv2d(3, 4, 8, 8), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 8)
    )
    Trainer(model, data, Schedule(epochs=1, imgsz=32, sizes=(32,), batch=50), {}, ALONE, 0).run(Hooks())
    assert train.__dict__["epochs"] == [0, 0, 0, 0, 1, 1]
