"""The longest chain of roundings, counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lvexport.depth import depth


class Branches(nn.Module):
    """One branch of three roundings beside one of one; their sum rounds once more."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * 3).sigmoid().exp() + x * 2


class Moves(nn.Module):
    """Nothing but copies, and one square at the end."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([x.flatten(2).transpose(1, 2), x.relu().reshape(1, -1, 3)], 1)
        return y.square()


CASES = [
    (nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.SiLU()), 3),
    (Branches(), 4),
    (Moves(), 1),
    (nn.Identity(), 0),
]


@pytest.mark.parametrize(("model", "expected"), CASES, ids=["convolutions", "branches", "moves", "identity"])
def test_depth_by_hand(model: nn.Module, expected: int) -> None:
    assert depth(torch.export.export(model.eval(), (torch.rand(1, 3, 8, 8),))) == expected
