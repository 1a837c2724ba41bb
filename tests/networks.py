"""A small network with all that light vision transformers have: what is tried on it takes seconds."""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTH, HEADS, SIDE, CLASSES = 32, 4, 32, 10


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, width = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, HEADS, width // HEADS).permute(2, 0, 3, 1, 4).unbind(0)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        mixed: Tensor = self.proj(y.transpose(1, 2).reshape(n, t, width))
        return mixed


class Small(nn.Module):
    """Two inverted residuals, a transformer block over the map, a head: (1, 3, 32, 32) → (1, 10)."""

    def __init__(self, seed: int = 0, width: int = WIDTH) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 4, 1), nn.SiLU())
        self.project = nn.Sequential(nn.Conv2d(16, width, 1, bias=False), nn.BatchNorm2d(width))
        self.expand = nn.Sequential(nn.Conv2d(width, 64, 1), nn.SiLU())
        self.depthwise = nn.Sequential(nn.Conv2d(64, 64, 3, 1, 1, groups=64), nn.ReLU())
        self.narrow = nn.Sequential(nn.Conv2d(64, width, 1, bias=False), nn.BatchNorm2d(width))
        self.widen = nn.Conv2d(width, width, 1)
        self.norm1, self.norm2, self.norm = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width)
        self.mlp = nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width))
        self.head = nn.Linear(width, CLASSES)

    def tokens(self, x: Tensor) -> Tensor:
        x = self.project(self.stem(x))
        x = x + self.narrow(self.depthwise(self.expand(x)))
        tokens = self.widen(x).flatten(2).transpose(1, 2)
        tokens = tokens + self.attention(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.tokens(x)).mean(1))
        return logits


class Dense(Small):
    """Answers for every place of the map, (1, 8192), which tells pictures apart better: it bears weights of 4 bits."""

    def __init__(self, seed: int = 0, width: int = WIDTH) -> None:
        super().__init__(seed, width)
        self.mlp = nn.Sequential(nn.Linear(width, 128), nn.GELU(), nn.Linear(128, width))  # large enough for them
        self.head = nn.Linear(width, 128)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.tokens(x)))
        return logits.flatten(1)


def small(seed: int = 0) -> Small:
    return Small(seed).eval()


def wide() -> Dense:
    """With weights of two blocks of 4-bit integers a row."""
    return Dense(width=64).eval()


@torch.no_grad()
def with_outliers(network: Small, decades: float, seed: int = 0) -> Small:
    """The same function, its channels scaled by factors over so many decades wherever that can be undone behind."""
    generator = torch.Generator().manual_seed(seed)

    def factors(count: int) -> Tensor:
        return 10 ** ((torch.rand(count, generator=generator) - 0.5) * decades)

    s = factors(WIDTH)
    for norm in (network.project[1], network.narrow[1]):
        norm.weight.mul_(s)
        norm.bias.mul_(s)
    for layer in (network.expand[0], network.widen):
        layer.weight.div_(s.reshape(1, -1, 1, 1))
    s = factors(64)  # through a ReLU
    network.depthwise[0].weight.mul_(s.reshape(-1, 1, 1, 1))
    network.depthwise[0].bias.mul_(s)
    network.narrow[0].weight.div_(s.reshape(1, -1, 1, 1))
    for norm, layer in ((network.norm1, network.attention.qkv), (network.norm2, network.mlp[0])):
        s = factors(WIDTH)
        norm.weight.mul_(s)
        norm.bias.mul_(s)
        layer.weight.div_(s)
    queries, keys, values = (slice(i * WIDTH, (i + 1) * WIDTH) for i in range(3))
    qkv = network.attention.qkv
    s = factors(WIDTH)
    scale_rows(qkv, queries, s)
    scale_rows(qkv, keys, 1 / s)
    s = factors(WIDTH)
    scale_rows(qkv, values, s)
    network.attention.proj.weight.div_(s)
    return network


def scale_rows(layer: nn.Linear, rows: slice, factors: Tensor) -> None:
    layer.weight[rows].mul_(factors.reshape(-1, 1))
    layer.bias[rows].mul_(factors)
