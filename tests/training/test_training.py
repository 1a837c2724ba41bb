"""Training that runs for seconds: it learns, repeats itself for a seed, and writes what the demo needs."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from lvexport.models import mobilevit
from lvexport.training import data, demo, sample
from lvexport.training.loop import Schedule, accuracy, learning_rate, train

SHORT = Schedule(epochs=1, imgsz=32, batch=16)


def bars(count: int, seed: int = 0) -> data.Images:
    """Pictures of upright and level bars: two classes that a network tells apart at once."""
    random = np.random.default_rng(seed)
    pixels, labels = np.zeros((count, 28, 28), np.uint8), random.integers(0, 2, count)
    for picture, label, at in zip(pixels, labels, random.integers(4, 20, count), strict=True):
        strip = slice(at, at + 5)
        picture[(slice(None), strip) if label else strip] = 255
    return data.Images(pixels, labels)


def write_idx(path: Path, values: np.ndarray) -> None:
    header = b"\x00\x00\x08" + bytes([values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes()))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set in the files that the real one has."""
    for split, count, seed in (("train", 64, 0), ("t10k", 48, 1)):
        images = bars(count, seed)
        noise = np.random.default_rng(seed).integers(0, 50, images.pixels.shape, np.uint8)
        write_idx(tmp_path / f"{split}-images-idx3-ubyte.gz", np.maximum(images.pixels, noise))
        write_idx(tmp_path / f"{split}-labels-idx1-ubyte.gz", images.labels)
    return tmp_path


def test_idx_files_are_read(folder: Path) -> None:
    images = data.fashion_mnist("train", folder)
    assert images.pixels.shape == (64, 28, 28)
    assert np.array_equal(images.labels, bars(64).labels)


def test_dye_keeps_shape_and_range_and_tells_channels_apart() -> None:
    dyed = data.dye(torch.ones(50, 4, 4), torch.Generator().manual_seed(0))
    assert dyed.shape == (50, 3, 4, 4)
    assert data.DYE[0] <= dyed.min() < dyed.max() <= data.DYE[1]
    assert (dyed[:, 0] != dyed[:, 1]).all()


def test_jitter_moves_but_keeps_what_is_in_the_middle() -> None:
    grey = torch.zeros(20, 28, 28)
    grey[:, 10:18, 10:18] = 1
    moved = data.jitter(grey, torch.Generator().manual_seed(0))
    assert moved.shape == grey.shape
    assert moved.sum() == grey.sum()
    assert (moved != grey).any()


def test_learning_rate_rises_then_falls_to_nothing() -> None:
    rates = [learning_rate(SHORT, step / 100) for step in range(101)]
    assert rates[0] == 0
    assert max(rates) == pytest.approx(SHORT.peak_lr)
    assert rates.index(max(rates)) == 5
    assert rates[-1] == pytest.approx(0, abs=1e-9)


def test_a_short_training_learns_and_repeats_itself() -> None:
    def run() -> torch.nn.Module:
        torch.manual_seed(0)
        schedule = Schedule(epochs=8, imgsz=32, batch=16, peak_lr=4e-3, ema_decay=0.9)
        return train(mobilevit.build("mobilevit_xxs", 2), bars(256), schedule, lambda line: None)

    first, second = run(), run()
    assert accuracy(first, bars(64, seed=5), SHORT) > 0.9
    states = first.state_dict(), second.state_dict()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_demo_command_writes_weights_and_card(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "made" / "w.safetensors"
    demo.main([str(out), "--data", str(folder), "--epochs", "1"])
    card = json.loads(out.with_suffix(".json").read_text())
    assert card["test_images"] == 48
    assert card["schedule"]["epochs"] == 1
    with safe_open(out, framework="pt") as file:
        assert file.get_tensor("classifier.weight").dtype == torch.float16


def test_sample_command_draws_each_picture_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "TEST", 30)
    monkeypatch.setattr(sample, "CALIBRATION", 20)
    sample.main([str(tmp_path / "s.safetensors"), "--data", str(folder)])
    with safe_open(tmp_path / "s.safetensors", framework="numpy") as file:
        assert file.get_tensor("test.pixels").shape == (30, 28, 28)
        assert file.get_tensor("calibration.dye").shape == (20, 3)
        assert len(np.unique(file.get_tensor("test.pixels").reshape(30, -1), axis=0)) == 30
