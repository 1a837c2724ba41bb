"""Blocks that more than one family is built from."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LAYER_SCALES = ("scale1", "scale2")  # names of what a block's branches are multiplied by, channel by channel
PATCH = 2  # pixels a side of an unfolded patch, at every stage of MobileViT (arXiv 2110.02178, section 4.1; 2206.02680)


class ConvNormAct(nn.Sequential):
    """Convolution, batch normalisation and, unless ``act`` is None, an activation.

    Maps (N, in_channels, H, W) to (N, out_channels, ceil(H/stride), ceil(W/stride)).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        act: type[nn.Module] | None = nn.SiLU,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding=kernel_size // 2,
            groups=groups,
            bias=bias,
        )
        self.norm = nn.BatchNorm2d(out_channels)
        if act is not None:
            self.act = act()


def patch_embedding(width: int, act: type[nn.Module]) -> nn.Sequential:
    """EfficientFormer's stem, two 3×3 convolutions of stride 2: (N, 3, H, W) → (N, width, H/4, W/4)."""
    return nn.Sequential(
        ConvNormAct(3, width // 2, kernel_size=3, stride=2, act=act, bias=True),
        ConvNormAct(width // 2, width, kernel_size=3, stride=2, act=act, bias=True),
    )


def each_map(stages: nn.Sequential, x: Tensor) -> list[Tensor]:
    """What every stage in turn makes of the one before."""
    maps = []
    for stage in stages:
        x = stage(x)
        maps.append(x)
    return maps


class InvertedResidual(nn.Module):
    """MobileNetV2's block (arXiv 1801.04381): widen by 1×1, filter each channel by 3×3, narrow by 1×1.

    The input is added back where the block changes neither resolution nor width.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.expand = ConvNormAct(in_channels, hidden)
        self.depthwise = ConvNormAct(hidden, hidden, kernel_size=3, stride=stride, groups=hidden)
        self.project = ConvNormAct(hidden, out_channels, act=None)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


def tiled(height: int, width: int) -> tuple[int, int]:
    """The smallest size that whole patches tile and that holds a map of ``height`` × ``width``."""
    return -(-height // PATCH) * PATCH, -(-width // PATCH) * PATCH


class Attention(nn.Module):
    """Multi-head self-attention, softmax(QKᵀ/√d)V, over (N, tokens, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = float((width // heads) ** -0.5)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        qkv = self.qkv(x).reshape(n, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        weights = torch.softmax((q * self.scale) @ k.transpose(-2, -1), dim=-1)
        mixed = (weights @ v).transpose(1, 2).reshape(n, tokens, width)
        out: Tensor = self.proj(mixed)
        return out


class TransformerBlock(nn.Module):
    """Pre-norm transformer layer: x + Attention(LN(x)), then x + MLP(LN(x)), over (N, tokens, width)."""

    def __init__(self, width: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, width * mlp_ratio), nn.SiLU(), nn.Linear(width * mlp_ratio, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


def gaps(length: int, step: int, device: torch.device | None) -> Tensor:
    """|query - key| along one axis: (ceil(length / step), length). Every target takes these operations on integers."""
    keys = torch.arange(length, device=device)
    queries = torch.arange(0, length, step, device=device).unsqueeze(1)
    return torch.maximum(queries - keys, keys - queries)


def distances(rows: int, columns: int, step: int, device: torch.device | None = None) -> Tensor:
    """Where a table of rows × columns distances holds each pair's: queries at every ``step``-th position, all keys.

    The pairs are ordered by query and then by key, both row by row; entry r·columns + c is for r rows and c columns.
    """
    down = gaps(rows, step, device).reshape(-1, 1, rows, 1)
    across = gaps(columns, step, device).reshape(1, -1, 1, columns)
    return (down * columns + across).reshape(-1)


class AttentionBias(nn.Module):
    """LeViT's attention bias (arXiv 2104.01136): for each head a learned number for every distance.

    The table is learned on a map of ``side`` × ``side`` positions. For a map of another size it is stretched
    bilinearly, so that no distance falls outside it and the parameters are the same at every input size.
    """

    index: Tensor

    def __init__(self, heads: int, side: int, step: int = 1) -> None:
        super().__init__()
        self.side = side
        self.step = step
        self.table = nn.Parameter(torch.zeros(heads, side * side))
        self.register_buffer("index", distances(side, side, step), persistent=False)

    def forward(self, rows: int, columns: int) -> Tensor:
        """The bias for keys on a map of rows × columns: (heads, queries, rows·columns)."""
        table: Tensor = self.table
        index = self.index
        if (rows, columns) != (self.side, self.side):
            table = self.stretched(rows, columns)
            index = distances(rows, columns, self.step, table.device)
        return table.index_select(1, index).reshape(table.shape[0], -1, rows * columns)

    def stretched(self, rows: int, columns: int) -> Tensor:
        """The table for a map of rows × columns: (heads, rows·columns)."""
        square = self.table.reshape(1, -1, self.side, self.side)
        return F.interpolate(square, (rows, columns), mode="bilinear", align_corners=True).flatten(2).squeeze(0)


class DistilledClassifier(nn.Module):
    """Two linear heads over (N, width), one taught by labels and one by a teacher; their mean is the answer.

    So DeiT distils (arXiv 2012.12877), which both versions of EfficientFormer follow.
    """

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.label = nn.Linear(width, num_classes)
        self.teacher = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        mean: Tensor = (self.label(x) + self.teacher(x)) / 2
        return mean


def initialise(model: nn.Module, linear_std: float = 0.02) -> None:
    """Fresh weights: linear layers truncated normal, convolutions Kaiming's by fan-out, their biases 0.

    The fan-out of a grouped convolution is that of one group; else a signal would fade behind every depthwise one.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=linear_std)
        elif isinstance(module, nn.Conv2d):
            fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
            nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
