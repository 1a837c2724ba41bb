"""EfficientFormer, version 2 (Li et al., arXiv 2212.08059).

Four-dimensional from end to end. The pooling mixer has become a depthwise convolution inside the MLP; the last blocks
of stages 3 and 4 attend to the whole map, in stage 3 on a map halved for it, and so does the step between those stages.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lvexport.models.efficientformer import DERIVED, LAYER_SCALE, ONE_HEAD, SNAP_TRUNK
from lvexport.models.layers import (
    AttentionBias,
    ConvNormAct,
    DistilledClassifier,
    each_map,
    initialise,
    patch_embedding,
)
from lvexport.models.layouts import Layout

# The numbers are those of snap-research/EfficientFormer, models/efficientformer_v2.py.
HEADS = 8
KEY_WIDTH = 32  # per head; half of it in the step between stages 3 and 4
VALUE_RATIO = 4  # width of a value over that of a key
SIDE = 7  # of the map attended to at 224 pixels, where the attention biases were learned


@dataclass(frozen=True)
class Variant:
    """One network of the family, with an expansion of the MLP for every block: their counts are the depths.

    The last ``attention`` blocks of stage 3, and as many of stage 4, attend.
    """

    widths: tuple[int, int, int, int]
    expansions: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    attention: int


VARIANTS = {
    "efficientformerv2_s0": Variant(
        (32, 48, 96, 176),
        ((4, 4), (4, 4), (4, 3, 3, 3, 4, 4), (4, 3, 3, 4)),
        attention=2,
    ),
    "efficientformerv2_s1": Variant(
        (32, 48, 120, 224),
        ((4, 4, 4), (4, 4, 4), (4, 4, 3, 3, 3, 3, 4, 4, 4), (4, 4, 3, 3, 4, 4)),
        attention=2,
    ),
    "efficientformerv2_s2": Variant(
        (32, 64, 144, 288),
        ((4, 4, 4, 4), (4, 4, 4, 4), (4, 4, 3, 3, 3, 3, 3, 3, 4, 4, 4, 4), (4, 4, 3, 3, 3, 3, 4, 4)),
        attention=4,
    ),
    "efficientformerv2_l": Variant(
        (40, 80, 192, 384),
        (
            (4, 4, 4, 4, 4),
            (4, 4, 4, 4, 4),
            (4, 4, 4, 4, 3, 3, 3, 3, 3, 3, 3, 4, 4, 4, 4),
            (4, 4, 4, 3, 3, 3, 3, 4, 4, 4),
        ),
        attention=6,
    ),
}


def conv(in_width: int, width: int, kernel_size: int = 1, stride: int = 1, groups: int = 1) -> ConvNormAct:
    """Convolution with bias, and batch normalisation, as everywhere in this family."""
    return ConvNormAct(in_width, width, kernel_size, stride, groups, act=None, bias=True)


def heads_last(x: Tensor) -> Tensor:
    """(N, heads·d, H, W) → (N, heads, H·W, d)."""
    return x.reshape(x.shape[0], HEADS, -1, x.shape[2] * x.shape[3]).transpose(2, 3)


def heads_merged(x: Tensor, rows: int, columns: int) -> Tensor:
    """Inverse of :func:`heads_last`: (N, heads, H·W, d) → (N, heads·d, H, W)."""
    return x.transpose(2, 3).reshape(x.shape[0], -1, rows, columns)


class TalkingAttention(nn.Module):
    """Self-attention over (N, C, H, W) with biases by distance, talking heads and a local branch.

    The heads exchange their scores before the softmax and their weights after it (arXiv 2003.02436). With ``stride`` 2
    the map is halved first and the outcome brought back to size bilinearly.
    """

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        inner = HEADS * KEY_WIDTH * VALUE_RATIO
        self.scale = float(KEY_WIDTH**-0.5)
        self.shrink = nn.Identity() if stride == 1 else conv(width, width, 3, stride, groups=width)
        self.q = conv(width, HEADS * KEY_WIDTH)
        self.k = conv(width, HEADS * KEY_WIDTH)
        self.v = conv(width, inner)
        self.local = conv(inner, inner, 3, groups=inner)
        self.bias = AttentionBias(HEADS, SIDE)
        self.talk_before = nn.Conv2d(HEADS, HEADS, kernel_size=1)
        self.talk_after = nn.Conv2d(HEADS, HEADS, kernel_size=1)
        self.act = nn.GELU()
        self.proj = conv(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        x = self.shrink(x)
        rows, columns = x.shape[2:]
        q, k, v = heads_last(self.q(x)), heads_last(self.k(x)), self.v(x)
        scores = (q @ k.transpose(2, 3)) * self.scale + self.bias(rows, columns)
        weights = self.talk_after(torch.softmax(self.talk_before(scores), dim=-1))
        y = heads_merged(weights @ heads_last(v), rows, columns) + self.local(v)
        if y.shape[2:] != size:
            y = F.interpolate(y, size=size, mode="bilinear", align_corners=False)
        out: Tensor = self.proj(self.act(y))
        return out


class DownsamplingQuery(nn.Module):
    """Queries for every second row and column: a strided depthwise convolution, and the pixels themselves."""

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.local = nn.Conv2d(in_width, in_width, kernel_size=3, stride=2, padding=1, groups=in_width)
        self.proj = conv(in_width, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.proj(self.local(x) + x[:, :, ::2, ::2])
        return y


class DownsamplingAttention(nn.Module):
    """Attention from a map at half the resolution to the whole one: (N, C, H, W) → (N, C′, H/2, W/2)."""

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        key_width = KEY_WIDTH // 2
        inner = HEADS * key_width * VALUE_RATIO
        self.scale = float(key_width**-0.5)
        self.q = DownsamplingQuery(in_width, HEADS * key_width)
        self.k = conv(in_width, HEADS * key_width)
        self.v = conv(in_width, inner)
        self.local = conv(inner, inner, 3, stride=2, groups=inner)
        self.bias = AttentionBias(HEADS, 2 * SIDE, step=2)
        self.act = nn.GELU()
        self.proj = conv(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = heads_last(self.q(x)), heads_last(self.k(x)), self.v(x)
        local = self.local(v)
        scores = (q @ k.transpose(2, 3)) * self.scale + self.bias(*x.shape[2:])
        y = heads_merged(torch.softmax(scores, dim=-1) @ heads_last(v), *local.shape[2:]) + local
        out: Tensor = self.proj(self.act(y))
        return out


class Downsample(nn.Module):
    """A strided convolution, and before stage 4 attention beside it: (N, C, H, W) → (N, C′, H/2, W/2)."""

    def __init__(self, in_width: int, width: int, attends: bool) -> None:
        super().__init__()
        self.conv = conv(in_width, width, 3, stride=2)
        self.attention = DownsamplingAttention(in_width, width) if attends else None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y if self.attention is None else self.attention(x) + y


class Mlp(nn.Module):
    """1×1 convolution, depthwise 3×3, 1×1, each with batch normalisation, over (N, C, H, W)."""

    def __init__(self, width: int, expansion: int) -> None:
        super().__init__()
        hidden = width * expansion
        self.expand = ConvNormAct(width, hidden, act=nn.GELU, bias=True)
        self.middle = ConvNormAct(hidden, hidden, kernel_size=3, groups=hidden, act=nn.GELU, bias=True)
        self.reduce = conv(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.reduce(self.middle(self.expand(x)))
        return y


class MlpBlock(nn.Module):
    """MLP, scaled and added to its input."""

    def __init__(self, width: int, expansion: int) -> None:
        super().__init__()
        self.mlp = Mlp(width, expansion)
        self.scale2 = nn.Parameter(torch.full((width,), LAYER_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.scale2.reshape(-1, 1, 1) * self.mlp(x)
        return y


class AttentionBlock(MlpBlock):
    """Attention and then MLP, each scaled and added to its input."""

    def __init__(self, width: int, expansion: int, stride: int) -> None:
        super().__init__(width, expansion)
        self.attention = TalkingAttention(width, stride)
        self.scale1 = nn.Parameter(torch.full((width,), LAYER_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.scale1.reshape(-1, 1, 1) * self.attention(x))


class Stage(nn.Module):
    """Halve the map, except in the first stage, then run the blocks: (N, C, H, W) → (N, C′, H/2, W/2)."""

    def __init__(self, number: int, in_width: int, width: int, expansions: tuple[int, ...], attention: int) -> None:
        super().__init__()
        self.downsample = nn.Identity() if number == 1 else Downsample(in_width, width, attends=number == 4)
        attention = attention if number >= 3 else 0
        plain = len(expansions) - attention
        self.blocks = nn.Sequential(
            *(MlpBlock(width, expansion) for expansion in expansions[:plain]),
            *(AttentionBlock(width, expansion, stride=2 if number == 3 else 1) for expansion in expansions[plain:]),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.blocks(self.downsample(x))
        return y


class EfficientFormerV2(nn.Module):
    """Classifier: (N, 3, H, W) → (N, num_classes). H and W are multiples of 32, the network's total stride."""

    strides = (4, 8, 16, 32)

    def __init__(self, variant: Variant, num_classes: int) -> None:
        super().__init__()
        v = variant
        self.channels = v.widths
        self.stem = patch_embedding(v.widths[0], nn.GELU)
        in_widths = (v.widths[0], *v.widths)
        self.stages = nn.Sequential(
            *(Stage(i + 1, in_widths[i], v.widths[i], v.expansions[i], v.attention) for i in range(4))
        )
        self.norm = nn.BatchNorm2d(v.widths[-1])
        self.classifier = DistilledClassifier(v.widths[-1], num_classes)

    def features(self, x: Tensor) -> list[Tensor]:
        """The map after each of the four stages: (N, channels[i], H / strides[i], W / strides[i])."""
        return each_map(self.stages, self.stem(x))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.features(x)[-1])
        logits: Tensor = self.classifier(x.mean(dim=(2, 3)))
        return logits


TIMM_LAYOUT = (
    (r"^stem\.conv1\.", "stem.0."),
    (r"^stem\.conv2\.", "stem.1."),
    (r"\.ls([12])\.gamma$", r".scale\1"),
    (r"\.downsample\.attn\.", ".downsample.attention."),
    (r"\.token_mixer\.", ".attention."),
    (r"\.attention_biases$", ".bias.table"),
    (r"\.stride_conv\.", ".shrink."),
    (r"\.v_local\.", ".local."),
    (r"\.talking_head1\.", ".talk_before."),
    (r"\.talking_head2\.", ".talk_after."),
    (r"\.mlp\.fc1\.", ".mlp.expand."),
    (r"\.mlp\.mid\.", ".mlp.middle."),
    (r"\.mlp\.fc2\.", ".mlp.reduce."),
    (r"\.bn\.", ".norm."),
    (r"^head\.", "classifier.label."),
    (r"^head_dist\.", "classifier.teacher."),
)
SNAP_LAYOUT = (
    *SNAP_TRUNK,
    (r"\.downsample\.attn\.", ".downsample.attention."),
    (r"\.downsample\.(proj|conv)\.", ".downsample.conv.conv."),
    (r"\.downsample\.(norm|bn)\.", ".downsample.conv.norm."),
    (r"\.token_mixer\.", ".attention."),
    (r"\.attention_biases$", ".bias.table"),
    (r"\.stride_conv\.", ".shrink."),
    (r"\.v_local\.", ".local."),
    (r"\.q\.local\.0\.", ".q.local."),
    (r"\.attention\.(q|k|v|local|shrink|q\.proj)\.0\.", r".attention.\1.conv."),
    (r"\.attention\.(q|k|v|local|shrink|q\.proj)\.1\.", r".attention.\1.norm."),
    (r"\.attention\.proj\.1\.", ".attention.proj.conv."),
    (r"\.attention\.proj\.2\.", ".attention.proj.norm."),
    (r"\.talking_head1\.", ".talk_before."),
    (r"\.talking_head2\.", ".talk_after."),
    (r"\.mlp\.fc1\.", ".mlp.expand.conv."),
    (r"\.mlp\.norm1\.", ".mlp.expand.norm."),
    (r"\.mlp\.mid\.", ".mlp.middle.conv."),
    (r"\.mlp\.mid_norm\.", ".mlp.middle.norm."),
    (r"\.mlp\.fc2\.", ".mlp.reduce.conv."),
    (r"\.mlp\.norm2\.", ".mlp.reduce.norm."),
    (r"^head\.", "classifier.label."),
)
LAYOUTS = {
    "timm": Layout(TIMM_LAYOUT, derived=DERIVED),
    "timm without distillation": Layout(TIMM_LAYOUT, copy=ONE_HEAD, derived=DERIVED),
    "snap-research": Layout(SNAP_LAYOUT, derived=DERIVED),
    "snap-research without distillation": Layout(SNAP_LAYOUT, copy=ONE_HEAD, derived=DERIVED),
}


def build(name: str, num_classes: int) -> EfficientFormerV2:
    """The network of that name with freshly initialised weights, in training mode."""
    model = EfficientFormerV2(VARIANTS[name], num_classes)
    initialise(model)
    return model
