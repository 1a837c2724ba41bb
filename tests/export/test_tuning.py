"""The tuner: what it tries, what it takes, and that it keeps it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lvexport import tuning
from lvexport.api import in_memory
from lvexport.converters.contract import Captured, TensorSpec
from lvexport.converters.rewrites.registry import REWRITES
from lvexport.jobs import Limits
from lvexport.plan import Cell, Plan, cells
from lvexport.processes import Workshop
from tests.networks import SIDE, small

ONNX = Cell("onnx", "fp32", ())
FEW = ("constants", "batch-norms")


class Slow(nn.Module):
    """Much is computed here that depends on no input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.register_buffer("table", torch.rand(500, 500))

    def forward(self, x: Tensor) -> Tensor:
        bias = self.table @ self.table @ self.table
        y: Tensor = self.norm(self.conv(x)).mean(dim=(2, 3)) + bias.mean()
        return y


@pytest.fixture
def slow(tmp_path: Path) -> Captured:
    path = tmp_path / "slow.pt2"
    torch.export.save(torch.export.export(Slow().eval(), (torch.rand(1, 3, 8, 8),)), path)
    return Captured(path, (TensorSpec("image", (1, 3, 8, 8), "float32"),), (TensorSpec("y", (1, 8), "float32"),))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "allowed", lambda cell: FEW)


@pytest.mark.usefixtures("few")
def test_what_is_faster_is_found_and_kept(slow: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LVEXPORT_CACHE", str(tmp_path / "cache"))
    shop = Workshop(tmp_path / "shop", Limits())
    found = tuning.tune(shop, ONNX, slow, "digest", lambda state: None)
    assert found.tried >= 3
    assert found.ratio <= 1
    (kept,) = (tmp_path / "cache" / "tuned").iterdir()
    assert json.loads(kept.read_text())["rewrites"] == list(found.rewrites)
    made = next(shop.numbers)
    assert tuning.tune(shop, ONNX, slow, "digest", lambda state: None) == found
    assert next(shop.numbers) == made + 1  # nothing was made again


def test_single_changes_keep_the_order() -> None:
    names = tuple(REWRITES)
    assert tuning.toggled((), names, 1) == [(name,) for name in names]
    assert tuning.toggled(names, names[:1], 1) == [names[1:]]
    assert tuning.toggled(names[1:], names[:1], 1) == [names]
    assert len(tuning.toggled((), names, 2)) == len(names) * (len(names) - 1) // 2


def test_neighbours_change_places() -> None:
    assert tuning.swapped(("a", "b", "c")) == [("b", "a", "c"), ("a", "c", "b")]


@pytest.mark.parametrize("target", ["coreml", "executorch", "onnx", "tflite"])
@pytest.mark.parametrize("recipe", ["fp32", "fp16"])
def test_nothing_squares_in_half_precision(target: str, recipe: str) -> None:
    tried = tuning.allowed(Cell(target, recipe, ()))
    squares = recipe == "fp32" or target in {"executorch", "tflite"}  # which normalise in single precision
    assert any(REWRITES[name].squares and target not in REWRITES[name].but_for for name in tried) == squares


@pytest.mark.parametrize("target", ["coreml", "executorch", "onnx", "tflite"])
def test_nothing_squares_in_half_precision_beside_integers(target: str, tmp_path: Path) -> None:
    cell = Cell(target, "mixed", ())
    names = Plan(in_memory(small(), SIDE, "small"), (cell,), tmp_path).rewrites(cell)
    assert names
    assert any(REWRITES[name].squares for name in names) == (target != "coreml")


def test_rounded_weights_are_left_alone(slow: Captured, tmp_path: Path) -> None:
    cell, shop = Cell("coreml", "w8", ()), Workshop(tmp_path / "shop", Limits())
    assert tuning.allowed(cell) == ()
    assert tuning.tune(shop, cell, slow, "digest", lambda state: None).rewrites == ()
    assert next(shop.numbers) == 0  # nothing was made


@pytest.mark.usefixtures("few")
def test_a_cache_that_cannot_be_used_costs_no_result(
    slow: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LVEXPORT_CACHE", str(tmp_path / "file"))
    assert tuning.tune(Workshop(tmp_path / "shop", Limits()), ONNX, slow, "digest", lambda state: None).ratio <= 1


@pytest.mark.slow
@pytest.mark.usefixtures("few")
def test_core_ml_is_counted(slow: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LVEXPORT_CACHE", str(tmp_path / "cache"))
    (cell,) = cells(["coreml"], ["fp32"], {})
    found = tuning.tune(Workshop(tmp_path / "shop", Limits()), cell, slow, "digest", lambda state: None)
    assert found.ratio <= 1
