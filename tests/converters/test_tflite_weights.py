"""Rounded weights of ``.tflite`` models as integers, run by LiteRT; what rounding activations costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lvexport.converters.activations import rounded, simulated
from lvexport.converters.compression import compress
from lvexport.converters.contract import DYNAMIC, FLOAT, Captured, Request, TensorSpec
from lvexport.converters.tflite import CONVERTER
from lvexport.validation.metrics import sqnr_db
from lvexport.validation.runtimes.tflite import RUNTIME


class Net(nn.Module):
    """Each kind of layer, with a layer norm whose factors a converter may fold into the next layer."""

    def __init__(self) -> None:
        super().__init__()
        self.point, self.kernel = nn.Conv2d(48, 64, 1), nn.Conv2d(64, 96, 3, padding=1)
        self.depth = nn.Conv2d(96, 480, 3, groups=96, padding=1)
        self.norm, self.last = nn.LayerNorm(480), nn.Linear(480, 32)
        nn.init.uniform_(self.norm.weight, 0.1, 10)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.depth(self.kernel(self.point(x).relu()))
        return self.last(self.norm(maps.flatten(2).transpose(1, 2)))


GIVEN = (1, 48, 6, 6)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("program") / "rounded.pt2"
    weights = CONVERTER.recipes["w8"].weights
    assert weights is not None
    torch.export.save(compress(torch.export.export(Net().eval(), (torch.randn(GIVEN),)), weights), path)
    return path


@pytest.fixture(scope="module")
def answers(program: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """By the way that activations are taken, and of PyTorch: as it is, and with activations rounded."""
    captured = Captured(program, (TensorSpec("x", GIVEN, "float32"),), (TensorSpec("y", (1, 36, 32), "float32"),))
    x = torch.randn(GIVEN, generator=torch.Generator().manual_seed(1))
    made = {}
    for activations in (DYNAMIC, FLOAT):
        out = tmp_path_factory.mktemp("made") / f"{activations}.tflite"
        notes = CONVERTER.convert(captured, Request(CONVERTER.recipes["w8"], {"activations": activations}), out)
        assert notes.remarks == ("weights in integers: 4",)
        session = RUNTIME.load(out, threads=1)
        made[activations] = session.run({session.inputs[0].name: x.numpy()})[session.outputs[0].name]
    loaded = torch.export.load(program)
    with torch.no_grad():
        return made | {"torch": loaded.module()(x).numpy(), "simulated": simulated(loaded)(x).numpy()}


def test_dequantized_weights_are_the_rounded_ones(answers: dict[str, np.ndarray]) -> None:
    assert sqnr_db(answers["torch"], answers[FLOAT]) > 110


def test_integer_layers_lose_what_the_simulation_says(answers: dict[str, np.ndarray]) -> None:
    expected = sqnr_db(answers["torch"], answers["simulated"])
    assert 30 < expected < 60
    assert sqnr_db(answers["torch"], answers[DYNAMIC]) == pytest.approx(expected, abs=3)


def test_rounding_keeps_each_range_to_its_own_steps() -> None:
    x = torch.tensor([[0.0, 1.0, 2.55], [-2.55e-3, 0.0, 0.0], [0.0, 0.0, 0.0], [5.0, 5.1, 5.1]])
    made = rounded(x, (-1,))
    assert torch.allclose(made[:2], x[:2])  # which are whole steps of 0.01 and 0.00001
    assert torch.equal(made[2], x[2])
    assert (made[3] - x[3]).abs().max() <= 5.1 / 255 / 2  # zero is in every range
    assert torch.unique(rounded(torch.randn(4096), (0,))).numel() <= 256
