"""Mobile-Former (Chen et al., arXiv 2108.05895), as the official code builds it (AAboys/MobileFormer).

A MobileNet and a transformer over a handful of learned tokens run in parallel, joined in every block by a two-way
bridge of light cross attention, whose map side has no projections. The official code leaves the paper in these points,
and its weights need them:

- Former's keys and values are the tokens themselves: only the queries are projected, and the outcome.
- What tokens gather from the map is scaled by a gate of their own before it is projected (``gate``, 0…2).
- Normalisation comes after each addition, not before the branch.
- A dynamic ReLU has slopes but no offsets, and no block has one behind its last convolution.
- The map takes in the tokens after the block's shortcut has been added.
- The first block has no bridge and no tokens' part, and a last Mobile→Former follows the blocks.
- 26m shuffles channels between its grouped 1×1 convolutions.

Tokens come first in their tensors, (T, N, width), and every sum and product is taken in the official code's order:
the outputs are then the same to the last bit, where weights that tell images apart by little would show a rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lvexport.models.layers import ConvNormAct, initialise
from lvexport.models.layouts import Layout

# Settings that all variants share (official code, mobile_former.py, common_model_kwargs, and dna_blocks.py).
BRIDGE_HEADS = 2
FORMER_HEADS = 4
FFN_RATIO = 2
HYPER_REDUCTION = 4  # width of the first token over that of the hidden layer behind a dynamic ReLU's slopes
SECOND_EXPANSION = 4  # of the second depthwise convolution in a block that halves the map
HEAD_EXPANSION = 6  # of the last 1×1 convolution

Row = tuple[int, int]  # a block: expansion, output channels


@dataclass(frozen=True)
class Variant:
    """One network of the family, with the numbers of the official code (mobile_former.py)."""

    tokens: int
    token_width: int
    stem: int
    first: Row  # depthwise and 1×1 convolution, without tokens
    first_stride: int
    # Blocks by resolution: those at the first block's, then each time one that halves the map and its successors.
    stages: tuple[tuple[Row, ...], ...]
    hidden: int  # width of the classifier's hidden layer
    groups: int = 1  # of the 1×1 convolutions


_52M = (((3, 12),), ((6, 24), (3, 24)), ((6, 48), (4, 48), (6, 64)), ((6, 96), (6, 96)))
_96M = ((), ((6, 16),), ((6, 32), (3, 32)), ((6, 64), (4, 64), (6, 88)), ((6, 128), (6, 128)))
_151M = (
    (),
    ((6, 16), (3, 16)),
    ((6, 32), (3, 32)),
    ((6, 64), (4, 64), (6, 88), (6, 88)),
    ((6, 128), (6, 128), (6, 128)),
)
_214M = (
    (),
    ((6, 20), (3, 20)),
    ((6, 40), (4, 40)),
    ((6, 80), (4, 80), (6, 112), (6, 112)),
    ((6, 160), (6, 160), (6, 160)),
)
_294M = (
    (),
    ((6, 24), (4, 24)),
    ((6, 48), (4, 48)),
    ((6, 96), (4, 96), (6, 128), (6, 128)),
    ((6, 192), (6, 192), (6, 192)),
)
_508M = (
    (),
    ((6, 40), (3, 40)),
    ((6, 72), (3, 72)),
    ((6, 128), (4, 128), (6, 176), (6, 176)),
    ((6, 240), (6, 240), (6, 240)),
)

VARIANTS = {
    "mobile_former_26m": Variant(3, 128, 8, (3, 12), 2, _52M, 1024, groups=4),
    "mobile_former_52m": Variant(3, 128, 8, (3, 12), 2, _52M, 1024),
    "mobile_former_96m": Variant(4, 128, 12, (2, 12), 1, _96M, 1280),
    "mobile_former_151m": Variant(6, 192, 12, (2, 12), 1, _151M, 1280),
    "mobile_former_214m": Variant(6, 192, 12, (2, 12), 1, _214M, 1600),
    "mobile_former_294m": Variant(6, 192, 16, (2, 16), 1, _294M, 1920),
    "mobile_former_508m": Variant(6, 192, 24, (2, 24), 1, _508M, 1920),
}


def hardswish(x: Tensor) -> Tensor:
    """x·hardsigmoid(x), rounded in the order of the official code."""
    return x * F.hardsigmoid(x)


class Shuffle(nn.Module):
    """ShuffleNet's channel shuffle (arXiv 1707.01083): channel i of group g becomes channel g of group i."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        return x.reshape(n, self.groups, -1, h, w).transpose(1, 2).reshape(x.shape)


class Pointwise(ConvNormAct):
    """1×1 convolution and batch normalisation, then a shuffle where the network's convolutions are grouped."""

    def __init__(self, in_width: int, width: int, groups: int, shuffle: bool) -> None:
        super().__init__(in_width, width, groups=groups, act=None)
        if shuffle and groups > 1:
            self.shuffle = Shuffle(groups)


class Depthwise(ConvNormAct):
    """Depthwise 3×3 convolution that may widen, batch normalisation, and a shuffle if 1×1 convolutions are grouped.

    Where it widens, the shuffle brings filters of one input channel apart, so that every group gets some of each.
    """

    def __init__(self, in_width: int, width: int, stride: int, groups: int) -> None:
        super().__init__(in_width, width, 3, stride, groups=in_width, act=None)
        if width > in_width and groups > 1:
            self.shuffle = Shuffle(in_width)


class DynamicReLU(nn.Module):
    """max(a·x, b·x), channel by channel, with slopes a in 0…2 and b in -1…1 from the first token (arXiv 2003.10027)."""

    def __init__(self, channels: int, token_width: int) -> None:
        super().__init__()
        self.channels = channels
        self.hyper = nn.Sequential(
            nn.Linear(token_width, token_width // HYPER_REDUCTION),
            nn.ReLU(),
            nn.Linear(token_width // HYPER_REDUCTION, 2 * channels),
            nn.Hardsigmoid(),
        )

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        slopes = 2 * (self.hyper(tokens[0]).reshape(-1, 2 * self.channels, 1, 1) - 0.5)  # -1…1
        first, second = slopes.split(self.channels, dim=1)
        return torch.maximum(x * (first + 1), x * second)


class First(nn.Module):
    """The block without tokens: depthwise 3×3 that widens, ReLU6, 1×1."""

    def __init__(self, in_width: int, row: Row, stride: int, groups: int) -> None:
        super().__init__()
        expansion, width = row
        self.depthwise = Depthwise(in_width, in_width * expansion, stride, groups)
        self.pointwise = Pointwise(in_width * expansion, width, groups, shuffle=False)
        self.residual = stride == 1 and in_width == width

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.pointwise(F.relu6(self.depthwise(x)))
        return x + y if self.residual else y


class Bottleneck(nn.Module):
    """Mobile at one resolution: an inverted bottleneck. (N, C, H, W) and the tokens → (N, C′, H, W)."""

    def __init__(self, in_width: int, row: Row, token_width: int, groups: int) -> None:
        super().__init__()
        expansion, width = row
        hidden = in_width * expansion
        self.conv1 = Pointwise(in_width, hidden, groups, shuffle=True)
        self.relu1 = DynamicReLU(hidden, token_width)
        self.conv2 = Depthwise(hidden, hidden, 1, groups)
        self.relu2 = DynamicReLU(hidden, token_width)
        self.conv3 = Pointwise(hidden, width, groups, shuffle=True)
        self.residual = in_width == width

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        y = self.relu1(self.conv1(x), tokens)
        y = self.relu2(self.conv2(y), tokens)
        out: Tensor = self.conv3(y)
        return x + out if self.residual else out


class HalvingBottleneck(nn.Module):
    """Mobile between two: depthwise, 1×1, and both again beside a shortcut. (N, C, H, W) → (N, C′, H/2, W/2)."""

    def __init__(self, in_width: int, row: Row, token_width: int, groups: int) -> None:
        super().__init__()
        expansion, width = row
        self.conv1 = Depthwise(in_width, in_width * expansion, 2, groups)
        self.relu1 = DynamicReLU(in_width * expansion, token_width)
        self.conv2 = Pointwise(in_width * expansion, width, groups, shuffle=False)
        self.conv3 = Depthwise(width, width * SECOND_EXPANSION, 1, groups)
        self.relu3 = DynamicReLU(width * SECOND_EXPANSION, token_width)
        self.conv4 = Pointwise(width * SECOND_EXPANSION, width, groups, shuffle=False)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        x = self.conv2(self.relu1(self.conv1(x), tokens))
        y: Tensor = self.conv4(self.relu3(self.conv3(x), tokens))
        return x + y


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """(T, N, C) → (N, heads, T, C / heads)."""
    count, n, width = tokens.shape
    return tokens.reshape(count, n, heads, width // heads).permute(1, 2, 0, 3)


def merge_heads(x: Tensor) -> Tensor:
    """Inverse of :func:`split_heads`: (N, heads, T, d) → (T, N, heads·d)."""
    return x.permute(2, 0, 1, 3).flatten(2)


class MobileToFormer(nn.Module):
    """Local to global: tokens look at the map, which is key and value itself (the paper's A_{X→Z})."""

    def __init__(self, width: int, token_width: int) -> None:
        super().__init__()
        self.scale = float((width // BRIDGE_HEADS) ** -0.5)
        self.query = nn.Linear(token_width, width)
        self.gate = nn.Sequential(nn.Linear(token_width, width), nn.Hardsigmoid())
        self.proj = nn.Linear(width, token_width)
        self.norm = nn.LayerNorm(token_width)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        n, c, h, w = x.shape
        pixels = x.reshape(n, BRIDGE_HEADS, c // BRIDGE_HEADS, h * w)
        scores = (split_heads(self.query(tokens), BRIDGE_HEADS) @ pixels) * self.scale
        gathered = merge_heads(torch.softmax(scores, dim=-1) @ pixels.transpose(2, 3))
        out: Tensor = self.norm(tokens + self.proj(gathered * (2 * self.gate(tokens))))
        return out


class Former(nn.Module):
    """Attention among the tokens and an FFN, over (T, N, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = float((width // FORMER_HEADS) ** -0.5)
        self.query = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width)
        self.ffn = nn.Sequential(nn.Linear(width, width * FFN_RATIO), nn.GELU(), nn.Linear(width * FFN_RATIO, width))
        self.norm2 = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        q, kv = split_heads(self.query(tokens), FORMER_HEADS), split_heads(tokens, FORMER_HEADS)
        weights = torch.softmax((q @ kv.transpose(2, 3)) * self.scale, dim=-1)
        tokens = self.norm1(tokens + self.proj(merge_heads(weights @ kv)))
        out: Tensor = self.norm2(tokens + self.ffn(tokens))
        return out


class FormerToMobile(nn.Module):
    """Global to local: pixels, queries themselves, look at the tokens (the paper's A_{Z→X})."""

    def __init__(self, width: int, token_width: int) -> None:
        super().__init__()
        self.scale = float((width // BRIDGE_HEADS) ** -0.5)
        self.key = nn.Linear(token_width, width)
        self.value = nn.Linear(token_width, width)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        n, c, h, w = x.shape
        pixels = x.reshape(n, BRIDGE_HEADS, c // BRIDGE_HEADS, h * w).transpose(2, 3)
        keys = split_heads(self.key(tokens), BRIDGE_HEADS)
        values = split_heads(self.value(tokens), BRIDGE_HEADS)
        weights = torch.softmax((pixels @ keys.transpose(2, 3)) * self.scale, dim=-1)
        return x + (weights @ values).transpose(2, 3).reshape(n, c, h, w)


class Block(nn.Module):
    """Mobile→Former, Former, Mobile, Former→Mobile: map and tokens to map and tokens."""

    def __init__(self, in_width: int, row: Row, halves: bool, token_width: int, groups: int) -> None:
        super().__init__()
        mobile = HalvingBottleneck if halves else Bottleneck
        self.to_former = MobileToFormer(in_width, token_width)
        self.former = Former(token_width)
        self.mobile = mobile(in_width, row, token_width, groups)
        self.to_mobile = FormerToMobile(row[1], token_width)

    def forward(self, x: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.former(self.to_former(x, tokens))
        return self.to_mobile(self.mobile(x, tokens), tokens), tokens


class MobileFormer(nn.Module):
    """Classifier: (N, 3, H, W) → (N, num_classes). H and W are multiples of 32, the network's total stride."""

    def __init__(self, variant: Variant, num_classes: int) -> None:
        super().__init__()
        v = variant
        rows = [(row, i > 0 and j == 0) for i, stage in enumerate(v.stages) for j, row in enumerate(stage)]
        widths = [v.first[1], *(width for (_, width), _ in rows)]
        # Numbers of the maps behind which the next block halves, or none follows.
        self.ends = tuple(accumulate(map(len, v.stages)))
        self.channels = tuple(widths[end] for end in self.ends)
        self.strides = (2, 4, 8, 16, 32)[-len(self.ends) :]
        self.tokens = nn.Parameter(torch.randn(v.tokens, v.token_width))
        self.stem = ConvNormAct(3, v.stem, kernel_size=3, stride=2, act=nn.ReLU6)
        self.first = First(v.stem, v.first, v.first_stride, v.groups)
        self.blocks = nn.ModuleList(
            Block(widths[i], row, halves, v.token_width, v.groups) for i, (row, halves) in enumerate(rows)
        )
        self.to_former = MobileToFormer(widths[-1], v.token_width)
        self.shuffle = Shuffle(v.groups) if v.groups > 1 else nn.Identity()
        pooled = widths[-1] * HEAD_EXPANSION
        self.head = ConvNormAct(widths[-1], pooled, groups=v.groups, act=nn.ReLU6)
        self.hidden = nn.Sequential(nn.Linear(pooled + v.token_width, v.hidden), nn.BatchNorm1d(v.hidden))
        self.classifier = nn.Linear(v.hidden, num_classes)

    def trunk(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """The map after every block, (N, C, h, w) each, and the tokens after the last, (T, N, width)."""
        maps = [self.first(self.stem(x))]
        tokens = self.tokens.unsqueeze(1).repeat(1, x.shape[0], 1)
        for block in self.blocks:
            x, tokens = block(maps[-1], tokens)
            maps.append(x)
        return maps, tokens

    def features(self, x: Tensor) -> list[Tensor]:
        """The last map at each resolution: (N, channels[i], H / strides[i], W / strides[i])."""
        maps, _ = self.trunk(x)
        return [maps[i] for i in self.ends]

    def forward(self, x: Tensor) -> Tensor:
        maps, tokens = self.trunk(x)
        tokens = self.to_former(maps[-1], tokens)
        pooled = hardswish(self.head(self.shuffle(maps[-1])).mean(dim=(2, 3)))
        logits: Tensor = self.classifier(hardswish(self.hidden(torch.cat((pooled, tokens[0]), dim=1))))
        return logits


_BLOCK_RULES = (
    (r"\.hyper(\d)\.hyper\.", r".mobile.relu\1.hyper."),
    (r"\.conv(\d)\.0\.", r".mobile.conv\1.conv."),
    (r"\.conv(\d)\.1\.", r".mobile.conv\1.norm."),
)
OFFICIAL_LAYOUT = (
    (r"^tokens\.weight$", "tokens"),
    (r"^stem\.0\.", "stem.conv."),
    (r"^stem\.1\.", "stem.norm."),
    (r"^features\.0\.conv\.0\.", "first.depthwise.conv."),
    (r"^features\.0\.conv\.1\.", "first.depthwise.norm."),
    (r"^features\.0\.conv\.4\.", "first.pointwise.conv."),
    (r"^features\.0\.conv\.5\.", "first.pointwise.norm."),
    # There the first block is number 0 of the list that here begins behind it.
    *((rf"^features\.{number + 1}\.", f"blocks.{number}.") for number in range(11)),
    *_BLOCK_RULES,
    (r"(^|\.)local_global\.", r"\1to_former."),
    (r"\.global_block\.", ".former."),
    (r"\.global_local\.k\.", ".to_mobile.key."),
    (r"\.global_local\.proj\.", ".to_mobile.value."),
    (r"former\.q\.", "former.query."),
    (r"to_former\.alpha\.", "to_former.gate."),
    (r"to_former\.layer_norm\.", "to_former.norm."),
    (r"\.former\.channel_mlp\.", ".former.proj."),
    (r"\.former\.layer_norm\.", ".former.norm1."),
    (r"\.former\.ffn_norm\.", ".former.norm2."),
    (r"^classifier\.conv\.1\.", "head.conv."),
    (r"^classifier\.conv\.2\.", "head.norm."),
    (r"^classifier\.fc\.", "hidden."),
    (r"^classifier\.classifier\.1\.", "classifier."),
)
LAYOUTS = {"official Mobile-Former": Layout(OFFICIAL_LAYOUT)}


def build(name: str, num_classes: int) -> MobileFormer:
    """The network of that name with freshly initialised weights, in training mode."""
    model = MobileFormer(VARIANTS[name], num_classes)
    initialise(model, linear_std=0.01)
    return model
