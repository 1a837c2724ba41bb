"""What networks spell out, in the form of fewer passes over a map: dynamic ReLUs and pooling mixers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lvexport.converters.recipes import RECIPES
from lvexport.converters.rewrites import dynamic_relus
from lvexport.converters.rewrites.registry import REWRITES
from lvexport.validation.metrics import sqnr_db
from tests.rewriting import computed_by_xnnpack, operations, rewritten

Slopes = Callable[[Tensor], tuple[Tensor, Tensor]]


def of_two_sigmoids(gates: Tensor) -> tuple[Tensor, Tensor]:
    """As in Mobile-Former: 0…2 and -1…1, and often at their ends."""
    first, second = (2 * (nn.functional.hardsigmoid(4 * gates) - 0.5)).split(8, dim=1)
    return first + 1, second


def of_constants(gates: Tensor) -> tuple[Tensor, Tensor]:
    """A slope that is one's own, and leaky ReLU beside it."""
    return torch.relu(gates[:, :8]), torch.tanh(gates[:, 8:]) * torch.tensor(0.1)


def of_any_sign(gates: Tensor) -> tuple[Tensor, Tensor]:
    return 4 * gates[:, :8] - 1, torch.tanh(4 * gates[:, 8:] - 1)


def of_a_sum(gates: Tensor) -> tuple[Tensor, Tensor]:
    """What torch adds more than once of."""
    return torch.add(torch.sigmoid(gates[:, :8]), torch.sigmoid(gates[:, 8:]), alpha=-2), torch.tanh(gates[:, 8:])


class Bends(nn.Module):
    """A dynamic ReLU whose slopes come of the map's means."""

    def __init__(self, slopes: Slopes) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.before, self.gates, self.after = nn.Conv2d(3, 8, 1), nn.Linear(8, 16), nn.Conv2d(8, 4, 1)
        self.slopes = slopes
        nn.init.normal_(self.gates.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        first, second = self.slopes(self.gates(x.mean((2, 3))).reshape(-1, 16, 1, 1))
        return self.after(torch.maximum(first * x, x * second))


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("slopes", [of_two_sigmoids, of_constants])
def test_a_dynamic_relu_is_one_operation_of_xnnpack(
    slopes: Slopes, images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, network = torch.randn(images, 3, 12, 10), Bends(slopes).requires_grad_(False)
    module = rewritten(network, x, names=["dynamic-relus"])
    assert operations(module)["_prelu_kernel"] == 1
    counted, got = computed_by_xnnpack(module, x, monkeypatch)
    assert counted["XNNPReLU"] == 1
    assert sqnr_db(network(x).numpy(), got.numpy()) > 110


@pytest.mark.parametrize("slopes", [of_any_sign, of_a_sum])
def test_slopes_that_may_both_be_negative_are_not_divided_by(slopes: Slopes) -> None:
    module = rewritten(Bends(slopes), torch.randn(1, 3, 12, 10), names=["dynamic-relus"])
    assert operations(module)["maximum"] == 1


def test_dividing_by_such_slopes_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from lvexport.converters.contract import ConversionError

    monkeypatch.setattr(dynamic_relus, "interval", lambda module, node: (0.0, 1.0))
    with pytest.raises(ConversionError, match="moved the outputs"):
        rewritten(Bends(of_any_sign), torch.randn(1, 3, 12, 10), names=["dynamic-relus"])


@pytest.mark.parametrize(("target", "recipe", "suits"), [("executorch", "fp32", True), ("onnx", "fp32", False)])
def test_only_where_the_runtime_has_it_in_single_precision(target: str, recipe: str, suits: bool) -> None:
    assert REWRITES["dynamic-relus"].suits(target, RECIPES[recipe]) == suits
    assert not REWRITES["dynamic-relus"].suits(target, RECIPES["fp16"])
    assert not REWRITES["dynamic-relus"].suits(target, RECIPES["w8a8"])


class Mixes(nn.Module):
    """A pooling mixer, scaled and added to what it mixes."""

    def __init__(self, pool: nn.AvgPool2d, scaled: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.before, self.pool, self.scaled = nn.Conv2d(3, 8, 3, padding=1), pool, scaled
        self.scale = nn.Parameter(torch.rand(8, 1, 1) - 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.before(x))
        mixed = self.pool(x) - x
        return x + self.scale * mixed if self.scaled else mixed


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 2]))
def test_a_mixer_is_a_convolution_for_maps_of_every_size(height: int, width: int, images: int) -> None:
    mixer = Mixes(nn.AvgPool2d(3, 1, 1, count_include_pad=False))
    found = operations(rewritten(mixer, torch.randn(images, 3, height, width), names=["pools"]))
    assert (found["conv2d"], found["add"], found["sub"], found["mul"]) == (2, 0, 0, 0)


@pytest.mark.parametrize("size", [3, 5])
def test_where_padding_counts_a_mixer_is_a_convolution_alone(size: int) -> None:
    mixer = Mixes(nn.AvgPool2d(size, 1, size // 2), scaled=False)
    found = operations(rewritten(mixer, torch.randn(1, 3, 9, 7), names=["pools"]))
    assert found == {"conv2d": 2, "relu": 1}


class Seen(Mixes):
    """A mixer of which something reads the means too, or where the map is another."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        means = self.pool(x)
        return torch.cat([means, x + self.scale * (means - x)], dim=1)


class Other(Mixes):
    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        return x + self.scale * (self.pool(torch.relu(x)) - x)


@pytest.mark.parametrize(
    "mixer",
    [
        Seen(nn.AvgPool2d(3, 1, 1, count_include_pad=False)),
        Other(nn.AvgPool2d(3, 1, 1, count_include_pad=False)),
        Mixes(nn.AvgPool2d(3, 1, 1, count_include_pad=False), scaled=False),
        Mixes(nn.AvgPool2d(5, 1, 2, count_include_pad=False)),
        Mixes(nn.AvgPool2d(3, 1, 1, divisor_override=4)),
    ],
    ids=["means read", "another map", "too few passes", "too wide", "another divisor"],
)
def test_what_is_no_such_mixer_stays(mixer: Mixes) -> None:
    assert operations(rewritten(mixer, torch.randn(1, 3, 9, 7), names=["pools"]))["avg_pool2d"] == 1


def test_a_mixer_is_the_same_in_executorch(monkeypatch: pytest.MonkeyPatch) -> None:
    x, mixer = torch.randn(1, 3, 9, 7), Mixes(nn.AvgPool2d(3, 1, 1, count_include_pad=False)).requires_grad_(False)
    counted, got = computed_by_xnnpack(rewritten(mixer, x, names=["pools"]), x, monkeypatch)
    assert counted["XNNDepthwiseConv2d"] == 1
    assert sqnr_db(mixer(x).numpy(), got.numpy()) > 110
