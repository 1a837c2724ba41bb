"""Reading what is learned from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from lvexport.models.preprocessing import Preprocessing
from lvexport.training import fashion_mnist, sample
from lvexport.training.data import open_data
from lvexport.training.errors import DataError
from lvexport.training.sampler import Pick


def test_idx_files_are_read(idx_folder: Path) -> None:
    images = fashion_mnist.fashion_mnist("train", idx_folder)
    assert images.pixels.shape == (64, 28, 28)
    assert set(images.labels) == {0, 1}


def test_dyes_tell_channels_apart() -> None:
    dyes = fashion_mnist.draw_dyes(50, torch.Generator().manual_seed(0))
    assert dyes.shape == (50, 3, 1, 1)
    assert fashion_mnist.DYE[0] <= dyes.min() < dyes.max() <= fashion_mnist.DYE[1]
    assert (dyes[:, 0] != dyes[:, 1]).all()


def test_jitter_moves_but_keeps_what_is_in_the_middle() -> None:
    grey = torch.zeros(20, 28, 28)
    grey[:, 10:18, 10:18] = 1
    moved = fashion_mnist.jitter(grey, torch.Generator().manual_seed(0))
    assert moved.shape == grey.shape
    assert moved.sum() == grey.sum()
    assert (moved != grey).any()


@pytest.mark.parametrize("source", ["idx", "folders"])
def test_training_pictures_change_with_the_epoch_and_test_pictures_do_not(
    source: str, idx_folder: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", idx_folder)
    data = open_data("fashion-mnist" if source == "idx" else str(pictures), Preprocessing(), seed=0)

    def read(part: str, epoch: int, size: tuple[int, int] = (40, 24)) -> torch.Tensor:
        x, y = getattr(data, part).__getitems__([Pick(3, size, epoch), Pick(5, size, epoch)])
        assert x.shape == (2, 3, *size)
        assert y.shape == (2,)
        assert 0 <= x.min() < x.max() <= 1
        return x

    assert torch.equal(read("train", 1), read("train", 1))
    assert not torch.equal(read("train", 1), read("train", 2))
    assert torch.equal(read("val", 1), read("val", 2))


def test_pictures_are_normalised_as_the_network_wants_them(pictures: Path) -> None:
    plain = open_data(str(pictures), Preprocessing(), 0)
    data = open_data(str(pictures), Preprocessing((0.1, 0.2, 0.3), (0.5, 0.6, 0.7)), 0)
    picks = [Pick(0, (32, 32), 0)]
    (x, _), (y, _) = plain.val.__getitems__(picks), data.val.__getitems__(picks)
    for channel, (mean, std) in enumerate(((0.1, 0.5), (0.2, 0.6), (0.3, 0.7))):
        assert torch.allclose(y[0, channel], (x[0, channel] - mean) / std, atol=1e-6)


def test_what_is_wrong_with_a_folder_is_said(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="fashion-mnist"):
        open_data(str(tmp_path / "nowhere"), Preprocessing(), 0)
    with pytest.raises(DataError, match="no folder train"):
        open_data(str(pictures / "train"), Preprocessing(), 0)
    (pictures / "val" / "unheard-of").mkdir()
    with pytest.raises(DataError, match="unheard-of"):
        open_data(str(pictures), Preprocessing(), 0)
    (pictures / "val" / "unheard-of").rmdir()
    broken = next((pictures / "val" / "level").iterdir())
    broken.write_bytes(b"no picture")
    data = open_data(str(pictures), Preprocessing(), 0)
    with pytest.raises(DataError, match=broken.name):
        data.val.__getitems__([Pick(i, (32, 32), 0) for i in range(len(data.val))])


def test_fashion_mnist_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path)
    with pytest.raises(DataError, match="apt-get install dataset-fashion-mnist"):
        open_data("fashion-mnist", Preprocessing(), 0)


def test_sample_command_draws_each_picture_once(
    idx_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample, "TEST", 30)
    monkeypatch.setattr(sample, "CALIBRATION", 20)
    sample.main([str(tmp_path / "s.safetensors"), "--data", str(idx_folder)])
    with safe_open(tmp_path / "s.safetensors", framework="numpy") as file:
        assert file.get_tensor("test.pixels").shape == (30, 28, 28)
        assert file.get_tensor("calibration.dye").shape == (20, 3)
        assert len(np.unique(file.get_tensor("test.pixels").reshape(30, -1), axis=0)) == 30
