"""Rounding weights to integers: blocks, ranges, and that rounding what was rounded changes nothing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lvexport.converters.compression import block_of, blocks, compress, quantize, recovered, requantize, weights
from lvexport.converters.contract import Integers
from lvexport.converters.derived import constant
from lvexport.converters.recipes import RECIPES
from lvexport.converters.registry import CONVERTERS

W8, W4 = Integers(8), Integers(4, 32)
WHOLE = Integers(4, 32, True, kernels=Integers(4), grouped=Integers(8))
SHAPES = [(24, 96), (16, 48, 3, 3), (240, 1, 3, 3)]


def weight(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """A weight whose channels differ by decades, with an outlier."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.logspace(-3, 2, shape[0]).reshape(-1, *(1 for _ in shape[1:]))
    made = torch.randn(shape, generator=generator) * spread
    made.view(-1)[0] *= 10
    return made


@pytest.mark.parametrize(("channels", "block"), [(64, 32), (80, 40), (48, 24), (24, 24), (37, 37), (50, 25), (1, 1)])
def test_blocks_divide_the_channels(channels: int, block: int) -> None:
    assert block_of(channels, W4) == block
    assert block_of(channels, W8) == channels


@pytest.mark.parametrize(("channels", "block"), [(64, 32), (96, 32), (48, 48), (80, 80), (32, 32), (16, 16)])
def test_whole_blocks_are_of_one_size_or_none(channels: int, block: int) -> None:
    assert block_of(channels, WHOLE) == block


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("integers", [W8, W4])
def test_rounding_again_changes_nothing(shape: tuple[int, ...], integers: Integers) -> None:
    first = quantize(weight(shape), integers)
    again = requantize(first.restored(), integers)
    assert torch.equal(first.data, again.data)
    assert torch.allclose(first.scale, again.scale, rtol=1e-6)
    assert first.data.abs().amax() == integers.largest


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("integers", "least"), [(W8, 30), (W4, 8)])
def test_every_block_keeps_its_own_precision(shape: tuple[int, ...], integers: Integers, least: float) -> None:
    """Also where channels differ by decades: that is what scales of their own are for."""
    given = weight(shape)
    noise = blocks(quantize(given, integers).restored() - given, integers).square().sum(-1)
    signal = blocks(given, integers).square().sum(-1)
    assert (10 * torch.log10(signal / noise)).min() > least


def test_scales_of_blocks_are_numbers_of_half_precision() -> None:
    """Also of weights so small that half precision has few digits left for them, or none."""
    halves = Integers(4, 32, half=True)
    given = weight((24, 96)) * 1e-6
    found = quantize(given, halves)
    assert torch.equal(found.scale.half().float(), found.scale)
    assert (found.scale == 0).any()
    assert torch.equal(found.restored(), requantize(found.restored(), halves).restored())


def test_a_range_that_clips_is_taken_where_it_loses_less() -> None:
    given = weight((24, 96))

    def loss(restored: Tensor) -> float:
        return float((restored - given).square().sum())

    assert loss(quantize(given, W4).restored()) < 0.9 * loss(requantize(given, W4).restored())


def test_a_channel_of_zeros_stays_zero() -> None:
    given = weight((24, 96))
    given[3] = 0
    assert torch.equal(quantize(given, W8).restored()[3], given[3])
    assert quantize(given, W8).restored().isfinite().all()


def opened(net: nn.Module, x: Tensor) -> Any:
    """A network as a module of operations, with numbers of its own."""
    return torch.export.export(copy.deepcopy(net), (x,)).module()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3)  # too small to be rounded
        self.second = nn.Conv2d(16, 64, 3, bias=False)
        self.norm = nn.BatchNorm2d(64)
        self.last = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.second(self.first(x))).mean((2, 3)))


def test_programs_are_rounded_after_batch_normalisation_is_folded() -> None:
    torch.manual_seed(0)
    net = Net().eval()
    net.norm.running_var.uniform_(0.01, 100)
    x = torch.rand(1, 3, 12, 12)
    expected = net(x)
    made = compress(opened(net, x), (x,), W8)
    assert not [n for n in made.graph.nodes if n.op == "call_function" and "norm" in str(n.target)]
    module = made.module()
    assert isinstance(module, torch.fx.GraphModule)
    assert len(list(weights(module))) == 2
    error = (module(x) - expected).square().sum() / expected.square().sum()
    assert 1e-7 < error < 1e-3


class Kinds(nn.Module):
    """One layer of each kind that weights may be rounded apart for."""

    def __init__(self) -> None:
        super().__init__()
        self.point, self.odd = nn.Conv2d(32, 96, 1), nn.Conv2d(96, 48, 1)
        self.strided, self.kernel = nn.Conv2d(48, 64, 1, stride=2), nn.Conv2d(64, 64, 3)
        self.groups, self.last = nn.Conv2d(64, 64, 3, groups=2), nn.Linear(64, 48)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.groups(self.kernel(self.strided(self.odd(self.point(x)))))
        return self.last(maps.mean((2, 3)))


def test_each_kind_of_layer_is_rounded_to_its_own_form() -> None:
    torch.manual_seed(0)
    x = torch.rand(1, 32, 12, 12)
    made: Any = compress(opened(Kinds().eval(), x), (x,), WHOLE).module()
    found = {}
    for node in weights(made):
        quantized = recovered(constant(made, node), WHOLE)
        assert quantized is not None
        found[str(node.target).split(".")[0]] = quantized.bits, quantized.scale.shape[1]
    assert found == {
        "point": (4, 1),
        "odd": (4, 3),
        "strided": (4, 1),
        "kernel": (4, 1),
        "groups": (8, 1),
        "last": (4, 2),
    }


def test_a_weight_that_was_not_rounded_is_not_taken_for_one() -> None:
    assert recovered(weight((64, 96)), WHOLE) is None


@pytest.mark.parametrize("target", CONVERTERS)
def test_every_target_has_each_recipe_or_says_why_not(target: str) -> None:
    converter = CONVERTERS[target]
    assert [name for name in RECIPES if name in converter.recipes or name in converter.refusals] == list(RECIPES)
    assert not set(converter.recipes) & set(converter.refusals)
    apart = {name for name, recipe in converter.recipes.items() if recipe.weights != RECIPES[name].weights}
    own = {"tflite": {"w4"}, "executorch": {"w4"}, "coreml": {"w8"}, "executorch:coreml": {"w8"}}
    assert apart == own.get(target, set())
