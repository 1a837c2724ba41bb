"""What one inference costs, counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lvexport.cost import measure

Q = (2, 3, 5, 7)  # batch, heads, tokens, channels


class Product(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ b


class Attention(nn.Module):
    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fused = fused

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.fused:
            return F.scaled_dot_product_attention(q, k, v)
        return torch.softmax(q @ k.transpose(-1, -2) * Q[-1] ** -0.5, -1) @ v


CASES = [
    (nn.Conv2d(4, 6, 3, padding=1, groups=2), (torch.rand(1, 4, 8, 8),), 8 * 8 * 6 * (4 // 2) * 9),
    (nn.Linear(5, 7), (torch.rand(3, 5),), 3 * 5 * 7),
    (Product(), (torch.rand(2, 3, 4), torch.rand(2, 4, 5)), 2 * 3 * 4 * 5),
    (Attention(fused=False), tuple(torch.rand(Q) for _ in range(3)), 2 * 2 * 3 * 5 * 5 * 7),
    (Attention(fused=True), tuple(torch.rand(Q) for _ in range(3)), 2 * 2 * 3 * 5 * 5 * 7),
]


@pytest.mark.parametrize(("model", "inputs", "macs"), CASES, ids=["conv", "linear", "product", "attention", "fused"])
def test_multiply_accumulates_by_hand(model: nn.Module, inputs: tuple[Tensor, ...], macs: int) -> None:
    assert measure(model.eval(), inputs).macs == macs


def test_traffic_by_hand() -> None:
    """A linear layer reads its input, weights and bias, and writes its output, four bytes a number."""
    cost = measure(nn.Linear(5, 7), (torch.rand(3, 5),))
    assert cost.traffic_bytes == 4 * (3 * 5 + 5 * 7 + 7 + 3 * 7)
    assert cost.parameters == 5 * 7 + 7
    assert cost.intensity == cost.macs / cost.traffic_bytes
