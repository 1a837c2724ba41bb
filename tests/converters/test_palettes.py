"""Palettes: near the best that there is, found again in a weight, and read back from Core ML packages of every age."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lvexport.cell import rounded_weights
from lvexport.converters.compression import compress
from lvexport.converters.contract import Captured, Integers, Request, TensorSpec
from lvexport.converters.mlpackage import looked_up
from lvexport.converters.palettes import palettize, recovered_palette
from lvexport.converters.registry import CONVERTERS
from lvexport.validation import mil
from lvexport.validation.integers.layers import Comparison, compare
from lvexport.validation.integers.registry import reader

FOUR = Integers(4, palette=True)


def noise(weight: torch.Tensor) -> float:
    """In dB below the weight."""
    off = palettize(weight, FOUR).restored() - weight
    return float(10 * torch.log10(weight.square().sum() / off.square().sum()))


def test_as_good_as_the_best_quantizer_of_sixteen_levels() -> None:
    """20.22 dB for normally distributed numbers (Max, 1960), 18.13 for Laplace's (Paez and Glisson, 1972)."""
    torch.manual_seed(0)
    normal = torch.randn(256, 512)
    laplace = torch.distributions.Laplace(0, 1).sample((256, 512))  # type: ignore[no-untyped-call]
    assert noise(normal) == pytest.approx(20.22, abs=0.1)
    assert noise(laplace) == pytest.approx(18.13, abs=0.15)


def test_what_is_rounded_once_is_not_changed_again() -> None:
    torch.manual_seed(1)
    weight = torch.randn(64, 48, 3, 3)
    once = palettize(weight, FOUR)
    assert len(torch.unique(once.restored())) == 16
    again = recovered_palette(once.restored(), FOUR)
    assert again is not None
    assert torch.equal(again.restored(), once.restored())
    assert recovered_palette(weight, FOUR) is None


def test_weights_of_few_numbers() -> None:
    weight = torch.tensor([0.5, -0.25, 0.0]).repeat(1000).reshape(50, 60)
    assert torch.equal(palettize(weight, FOUR).restored(), weight)
    found = recovered_palette(weight, FOUR)
    assert found is not None
    assert torch.equal(found.restored(), weight)
    assert torch.equal(palettize(torch.zeros(40, 60), FOUR).restored(), torch.zeros(40, 60))


@pytest.fixture(scope="module")
def rounded() -> Any:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 96, 3, stride=2), nn.Conv2d(96, 96, 5, groups=96), nn.Conv2d(96, 32, 1), nn.Flatten())
    net = nn.Sequential(*layers, nn.Linear(32 * 9, 40)).eval().requires_grad_(False)
    x = (torch.rand(1, 3, 16, 16),)
    recipe = CONVERTERS["coreml"].recipes["p4"]
    assert recipe.weights is not None
    return compress(torch.export.export(net, x).module(), x, recipe.weights), recipe  # type: ignore[arg-type]


def converted(target: str, options: dict[str, str], rounded: Any, folder: Path) -> Path:
    program, recipe = rounded
    torch.export.save(copy.copy(program), folder / "program.pt2")
    given, made = TensorSpec("picture", (1, 3, 16, 16), "float32"), TensorSpec("scores", (1, 40), "float32")
    out = folder / f"model{CONVERTERS[target].suffix}"
    CONVERTERS[target].convert(Captured(folder / "program.pt2", (given,), (made,)), Request(recipe, options), out)
    return out


def found_in(target: str, artifact: Path, rounded: Any) -> Comparison:
    program, recipe = rounded
    read = reader(target)
    assert read is not None
    return compare(list(rounded_weights(program.module(), recipe.weights)), read(artifact))


@pytest.mark.parametrize("ios", ["16", "17", "18"])
def test_packages_hold_them(ios: str, rounded: Any, tmp_path: Path) -> None:
    out = converted("coreml", {"min_ios": ios, "io": "tensor"}, rounded, tmp_path)
    found = found_in("coreml", out, rounded)
    assert (found.expected, found.found, dict(found.wrong)) == (4, 4, {})
    assert [len(torch.unique(value)) for value in heavy(rounded[0])] == [16, 16, 16]
    picture = torch.rand(1, 3, 16, 16)
    exact = rounded[0].module()(picture).detach().numpy()
    answer = mil.load(out, numerics="exact").predict({"picture": picture.numpy()})["scores"]
    assert abs(answer - exact).max() < 2e-3 * abs(exact).max()


def test_places_in_packages_have_four_bits_on_every_processor() -> None:
    """Also where ``numpy.unique`` finds more than 16 numbers among halves of which many are equal."""
    random = np.random.default_rng(0)
    for _ in range(20):
        numbers = np.unique(random.standard_normal(16).astype(np.float16).astype(np.float32)).astype(np.float16)
        weight = random.choice(numbers, (80, 160))
        palette, places = looked_up(weight, FOUR)
        assert (palette.shape, palette.dtype, places.shape, places.dtype) == ((16,), np.float16, (12800,), np.uint8)
        assert np.array_equal(palette[places].reshape(80, 160), weight)


def test_assets_hold_them(rounded: Any, tmp_path: Path) -> None:
    """And one in which two numbers of a palette change places holds others."""
    out = converted("coreai", {}, rounded, tmp_path)
    found = found_in("coreai", out, rounded)
    assert (found.expected, found.found, dict(found.wrong)) == (4, 4, {})
    program = out / "main.mlirb"
    content, palette = program.read_bytes(), torch.unique(heavy(rounded[0])[-1])
    swapped = palette[[15, *range(1, 15), 0]]
    assert content.count(palette.numpy().tobytes()) == 1
    program.write_bytes(content.replace(palette.numpy().tobytes(), swapped.numpy().tobytes()))
    (out / "main.hash").write_bytes(hashlib.sha256(program.read_bytes()).digest())
    found = found_in("coreai", out, rounded)
    assert len(found.wrong) == 1


def heavy(program: Any) -> list[torch.Tensor]:
    """The weights that have palettes: not that of the convolution in groups."""
    return [value for name, value in program.state_dict.items() if "weight" in name and value.shape[1] > 1]
