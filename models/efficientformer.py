"""EfficientFormer, version 1 (Li et al., arXiv 2206.01191).

A network found by slimming a supernet under measured latency. It begins in a four-dimensional partition, where blocks
mix by pooling and 1×1 convolutions with batch normalisation, and after one reshape ends in a three-dimensional one,
where they are transformer layers. In between nothing is reshaped: the design is *dimension-consistent*.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lvexport.models.layers import (
    AttentionBias,
    ConvNormAct,
    DistilledClassifier,
    each_map,
    initialise,
    patch_embedding,
)
from lvexport.models.layouts import Layout

# The numbers are those of snap-research/EfficientFormer, models/efficientformer.py.
HEADS = 8
KEY_WIDTH = 32  # per head
VALUE_WIDTH = 128  # per head
MLP_RATIO = 4
POOL = 3  # pixels a side of the pooling mixer's window
LAYER_SCALE = 1e-5  # what a branch is multiplied by at first
SIDE = 7  # of the last stage's map at 224 pixels, where the attention biases were learned


@dataclass(frozen=True)
class Variant:
    """One network of the family. The last ``attention`` blocks of stage 4 are three-dimensional."""

    widths: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    attention: int


VARIANTS = {
    # Ours, not the paper's: the same design at less than half of l1's widths, for trying things out on small pictures.
    "efficientformer_nano": Variant((24, 48, 96, 192), (2, 2, 4, 4), attention=2),
    "efficientformer_l1": Variant((48, 96, 224, 448), (3, 2, 6, 4), attention=1),
    "efficientformer_l3": Variant((64, 128, 320, 512), (4, 4, 12, 6), attention=4),
    "efficientformer_l7": Variant((96, 192, 384, 768), (6, 6, 18, 8), attention=8),
}


class PoolingMixer(nn.Module):
    """PoolFormer's token mixer (arXiv 2111.11418): the mean of each neighbourhood less the pixel itself."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(POOL, stride=1, padding=POOL // 2, count_include_pad=False)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.pool(x) - x
        return mixed


class ConvMlp(nn.Module):
    """1×1 convolutions out and back, each with batch normalisation, over (N, C, H, W)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(width, width * MLP_RATIO, kernel_size=1)
        self.expand_norm = nn.BatchNorm2d(width * MLP_RATIO)
        self.act = nn.GELU()
        self.reduce = nn.Conv2d(width * MLP_RATIO, width, kernel_size=1)
        self.reduce_norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.reduce_norm(self.reduce(self.act(self.expand_norm(self.expand(x)))))
        return y


class LinearMlp(nn.Module):
    """Linear layers out and back, over (N, tokens, C)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width, width * MLP_RATIO)
        self.act = nn.GELU()
        self.reduce = nn.Linear(width * MLP_RATIO, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.reduce(self.act(self.expand(x)))
        return y


class BiasedAttention(nn.Module):
    """softmax(QKᵀ/√d + b)V over (N, rows·columns, C), b depending on head and distance."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = float(KEY_WIDTH**-0.5)
        self.qkv = nn.Linear(width, HEADS * (2 * KEY_WIDTH + VALUE_WIDTH))
        self.bias = AttentionBias(HEADS, SIDE)
        self.proj = nn.Linear(HEADS * VALUE_WIDTH, width)

    def forward(self, x: Tensor, rows: int, columns: int) -> Tensor:
        n, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(n, tokens, HEADS, -1).transpose(1, 2)
        q, k, v = qkv.split((KEY_WIDTH, KEY_WIDTH, VALUE_WIDTH), dim=-1)
        weights = torch.softmax((q @ k.transpose(-2, -1)) * self.scale + self.bias(rows, columns), dim=-1)
        out: Tensor = self.proj((weights @ v).transpose(1, 2).reshape(n, tokens, -1))
        return out


class Block4D(nn.Module):
    """MB4D: pooling mixer, then convolutional MLP, each scaled and added to its input, over (N, C, H, W)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mixer = PoolingMixer()
        self.mlp = ConvMlp(width)
        self.scale1 = nn.Parameter(torch.full((width,), LAYER_SCALE))
        self.scale2 = nn.Parameter(torch.full((width,), LAYER_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.scale1.reshape(-1, 1, 1) * self.mixer(x)
        y: Tensor = x + self.scale2.reshape(-1, 1, 1) * self.mlp(x)
        return y


class Block3D(nn.Module):
    """MB3D: layer normalisation and attention, then the same and MLP, each scaled and added, over (N, tokens, C)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = BiasedAttention(width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = LinearMlp(width)
        self.scale1 = nn.Parameter(torch.full((width,), LAYER_SCALE))
        self.scale2 = nn.Parameter(torch.full((width,), LAYER_SCALE))

    def forward(self, x: Tensor, rows: int, columns: int) -> Tensor:
        x = x + self.scale1 * self.attention(self.norm1(x), rows, columns)
        y: Tensor = x + self.scale2 * self.mlp(self.norm2(x))
        return y


class ToTokens(nn.Module):
    """The one reshape: (N, C, H, W) → (N, H·W, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2)


class Stage(nn.Module):
    """Halve the map, except in the first stage, then run the blocks.

    (N, C, H, W) → (N, C′, H/2, W/2), or (N, H·W/4, C′) where the last blocks are three-dimensional.
    """

    def __init__(self, number: int, in_width: int, width: int, depth: int, attention: int) -> None:
        super().__init__()
        self.downsample: nn.Module = nn.Identity()
        if number > 1:
            self.downsample = ConvNormAct(in_width, width, kernel_size=3, stride=2, act=None, bias=True)
        attention = attention if number == 4 else 0
        self.blocks = nn.Sequential(*(Block4D(width) for _ in range(depth - attention)))
        if attention:
            self.blocks.extend([ToTokens(), *(Block3D(width) for _ in range(attention))])

    def forward(self, x: Tensor) -> Tensor:
        x = self.downsample(x)
        rows, columns = x.shape[2:]
        for block in self.blocks:
            x = block(x, rows, columns) if isinstance(block, Block3D) else block(x)
        return x


class EfficientFormer(nn.Module):
    """Classifier: (N, 3, H, W) → (N, num_classes). H and W are multiples of 32, the network's total stride."""

    strides = (4, 8, 16, 32)

    def __init__(self, variant: Variant, num_classes: int) -> None:
        super().__init__()
        v = variant
        self.channels = v.widths
        self.stem = patch_embedding(v.widths[0], nn.ReLU)
        in_widths = (v.widths[0], *v.widths)
        self.stages = nn.Sequential(
            *(Stage(i + 1, in_widths[i], v.widths[i], v.depths[i], v.attention) for i in range(4))
        )
        self.norm = nn.LayerNorm(v.widths[-1])
        self.classifier = DistilledClassifier(v.widths[-1], num_classes)

    def features(self, x: Tensor) -> list[Tensor]:
        """The map after each of the four stages: (N, channels[i], H / strides[i], W / strides[i])."""
        rows, columns = (-(-side // self.strides[-1]) for side in x.shape[2:])
        maps = each_map(self.stages, self.stem(x))
        maps[-1] = maps[-1].transpose(1, 2).reshape(x.shape[0], -1, rows, columns)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(self.stages(self.stem(x)))
        logits: Tensor = self.classifier(tokens.mean(dim=1))
        return logits


# Between a state dict of theirs and of ours: the blocks, which both codes name alike.
_BLOCKS = (
    (r"\.token_mixer\.attention_biases$", ".attention.bias.table"),
    (r"\.token_mixer\.", ".attention."),
    (r"\.mlp\.fc1\.", ".mlp.expand."),
    (r"\.mlp\.norm1\.", ".mlp.expand_norm."),
    (r"\.mlp\.fc2\.", ".mlp.reduce."),
    (r"\.mlp\.norm2\.", ".mlp.reduce_norm."),
    (r"^head\.", "classifier.label."),
)
TIMM_LAYOUT = (
    (r"^stem\.(conv|norm)1\.", r"stem.0.\1."),
    (r"^stem\.(conv|norm)2\.", r"stem.1.\1."),
    (r"\.ls([12])\.gamma$", r".scale\1"),
    *_BLOCKS,
    (r"^head_dist\.", "classifier.teacher."),
)
# Stages and what lies between them stand there in one list: stage, embedding, stage, embedding …
SNAP_TRUNK = (
    *((rf"^network\.{2 * stage}\.", f"stages.{stage}.blocks.") for stage in range(4)),
    *((rf"^network\.{2 * stage - 1}\.", f"stages.{stage}.downsample.") for stage in range(1, 4)),
    (r"^patch_embed\.0\.", "stem.0.conv."),
    (r"^patch_embed\.1\.", "stem.0.norm."),
    (r"^patch_embed\.3\.", "stem.1.conv."),
    (r"^patch_embed\.4\.", "stem.1.norm."),
    (r"\.layer_scale_([12])$", r".scale\1"),
    (r"^dist_head\.", "classifier.teacher."),
)
SNAP_LAYOUT = (*SNAP_TRUNK, (r"\.downsample\.proj\.", ".downsample.conv."), *_BLOCKS)
DERIVED = (r"\.attention_bias_idxs$",)
ONE_HEAD = ((r"^classifier\.label\.", "classifier.teacher."),)  # trained without a teacher: the mean is that head's
LAYOUTS = {
    "timm": Layout(TIMM_LAYOUT, derived=DERIVED),
    "snap-research": Layout(SNAP_LAYOUT, derived=DERIVED),
    "snap-research without distillation": Layout(SNAP_LAYOUT, copy=ONE_HEAD, derived=DERIVED),
}


def build(name: str, num_classes: int) -> EfficientFormer:
    """The network of that name with freshly initialised weights, in training mode."""
    model = EfficientFormer(VARIANTS[name], num_classes)
    initialise(model)
    return model
