"""Weights fitted over calibration inputs: they are on their grids, and outputs stay nearer than by rounding each."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lvexport.converters.compression import compress, form_of, recovered, requantize, weights
from lvexport.converters.contract import Integers
from lvexport.converters.derived import constant
from lvexport.converters.gptq import fit, fitted
from lvexport.converters.palettes import recovered_palette
from lvexport.converters.recipes import KERNELS_W4, P4, W4

FORMS = (W4.weights, KERNELS_W4.weights, P4.weights)


class Net(nn.Module):
    """Layers of every kind. One weight is used twice, and a channel of the input is always zero."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.point = nn.Conv2d(8, 64, 3, padding=1), nn.Conv2d(64, 64, 1)
        self.depthwise = nn.Conv2d(64, 64, 7, padding=3, groups=64)
        self.groups = nn.Conv2d(64, 64, 3, stride=2, groups=2, bias=False)
        self.twice, self.last = nn.Linear(64, 64), nn.Linear(64, 48)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.point(torch.relu(self.kernel(x)))
        tokens = self.groups(torch.relu(self.depthwise(maps) + maps)).flatten(2).transpose(1, 2)
        return self.last(torch.relu(self.twice(torch.relu(self.twice(tokens)))).mean(1))


def inputs(count: int, seed: int) -> list[tuple[Tensor]]:
    """Smooth maps, whose channels go together, as those of pictures do."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(8, 3, generator=torch.Generator().manual_seed(7))
    mixed[5] = 0
    small = torch.randn(count, 3, 4, 4, generator=generator)
    smooth = nn.functional.interpolate(small, size=(12, 12), mode="bilinear")
    return [(x[None],) for x in torch.einsum("oc,nchw->nohw", mixed, smooth)]


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


def opened(net: nn.Module) -> Any:
    return torch.export.export(copy.deepcopy(net), inputs(1, 0)[0]).module()


def noise(program: Any, net: nn.Module) -> float:
    """What is off over inputs that were not seen, as a share of the outputs' power."""
    fresh = inputs(40, 3)
    with torch.no_grad():
        exact, found = (torch.cat([model(*x) for x in fresh]) for model in (net, program))
    return float((found - exact).square().sum() / exact.square().sum())


@pytest.mark.parametrize("form", FORMS)
def test_outputs_stay_nearer(form: Integers, net: nn.Module) -> None:
    x = inputs(1, 0)[0]
    nearest: Any = compress(opened(net), x, form).module()
    found: Any = compress(opened(net), x, form, inputs(80, 1)).module()
    assert noise(found, net) < 0.2 * noise(nearest, net)


@pytest.mark.parametrize("form", FORMS)
def test_every_weight_is_on_its_grid(form: Integers, net: nn.Module) -> None:
    module = opened(net)
    fit(module, inputs(20, 1), form)
    found = list(weights(module))
    assert len(found) == 6
    for node in found:
        own, value = form_of(node.users, form), constant(module, node)
        quantized = recovered_palette(value, own) if own.palette else recovered(value, form)
        assert quantized is not None
        assert quantized.bits == own.bits
        assert torch.allclose(quantized.restored(), value)


def test_what_no_scale_reaches_is_rounded_to_the_nearest() -> None:
    """Where columns say the same thing, one takes up all that others lost, and the largest integer may go unused."""
    torch.manual_seed(0)
    weight, shared = torch.randn(6, 64), torch.randn(64, 1)
    total = (shared @ shared.T)[None].double()
    found = fitted(weight.double(), total, Integers(4, 32))
    assert torch.allclose(requantize(found, Integers(4, 32)).restored(), found)
