"""MobileViT, version 2 (Mehta and Rastegari, arXiv 2206.02680).

Version 1's trunk, and in its last three stages a block whose attention costs a time linear in the number of patches:
one query a position weighs all keys into a single context vector, which then gates the values. Nothing but 1×1
convolutions and sums, and neither a shortcut nor a fusing convolution around the transformer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lvexport.models.layers import PATCH, ConvNormAct, InvertedResidual, each_map, initialise, tiled
from lvexport.models.layouts import Layout
from lvexport.models.mobilevit import CVNETS_TRUNK, TIMM_LAYOUT, TRANSFORMERS_NORMS, TRANSFORMERS_TRUNK

# The network of width 1 (apple/ml-cvnets, cvnets/models/classification/config/mobilevit_v2.py).
STEM = 32
WIDTHS = (64, 128, 256, 384, 512)  # output channels of the five stages
ATTENTION_WIDTHS = (128, 192, 256)  # stages 3, 4, 5
DEPTHS = (2, 4, 3)  # transformer layers in stages 3, 4, 5
EXPANSION = 2  # of the inverted residuals
MLP_RATIO = 2

# Each variant is that one with every width multiplied.
VARIANTS = {
    "mobilevitv2_050": 0.5,
    "mobilevitv2_075": 0.75,
    "mobilevitv2_100": 1.0,
    "mobilevitv2_125": 1.25,
    "mobilevitv2_150": 1.5,
    "mobilevitv2_175": 1.75,
    "mobilevitv2_200": 2.0,
}


def unfold(x: Tensor) -> Tensor:
    """(N, C, H, W) → (N, C, P, H·W/P): position by position, P = PATCH² positions in a patch."""
    n, c, h, w = x.shape
    x = x.reshape(n * c, h // PATCH, PATCH, w).transpose(1, 2)
    x = x.reshape(n * c * PATCH, -1, PATCH).transpose(1, 2)
    return x.reshape(n, c, PATCH * PATCH, -1)


def fold(x: Tensor, height: int, width: int) -> Tensor:
    """Inverse of :func:`unfold`: (N, C, P, H·W/P) → (N, C, H, W)."""
    n, c = x.shape[:2]
    x = x.reshape(n * c * PATCH, PATCH, -1).transpose(1, 2)
    x = x.reshape(n * c, PATCH, height // PATCH, width).transpose(1, 2)
    return x.reshape(n, c, height, width)


class SeparableAttention(nn.Module):
    """Separable self-attention over (N, C, P, patches), for each of the P positions apart (paper, section 3.2).

    Scores over the patches come from one query channel; the keys, weighted by them and summed, are a context vector
    that scales the rectified values.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.qkv = nn.Conv2d(width, 1 + 2 * width, kernel_size=1)
        self.proj = nn.Conv2d(width, width, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).split((1, self.width, self.width), dim=1)
        context = (key * torch.softmax(query, dim=-1)).sum(dim=-1, keepdim=True)
        out: Tensor = self.proj(torch.relu(value) * context)
        return out


class SeparableTransformerBlock(nn.Module):
    """Pre-norm layer with separable attention, over (N, C, P, patches). A norm takes in all of an image's numbers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(1, width)
        self.attention = SeparableAttention(width)
        self.norm2 = nn.GroupNorm(1, width)
        self.mlp = nn.Sequential(
            nn.Conv2d(width, width * MLP_RATIO, kernel_size=1),
            nn.SiLU(),
            nn.Conv2d(width * MLP_RATIO, width, kernel_size=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


class MobileViTV2Block(nn.Module):
    """Depthwise 3×3, 1×1 to the transformer's width, unfold, transformer, fold, 1×1 back."""

    def __init__(self, channels: int, width: int, depth: int) -> None:
        super().__init__()
        self.local = ConvNormAct(channels, channels, kernel_size=3, groups=channels)
        self.widen = nn.Conv2d(channels, width, kernel_size=1, bias=False)
        self.transformer = nn.Sequential(*(SeparableTransformerBlock(width) for _ in range(depth)))
        self.norm = nn.GroupNorm(1, width)
        self.narrow = ConvNormAct(width, channels, act=None)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        even = tiled(h, w)
        if even != (h, w):  # and it stays so, unlike in version 1, as in the authors' code
            x = F.interpolate(x, size=even, mode="bilinear", align_corners=True)
        patches = self.norm(self.transformer(unfold(self.widen(self.local(x)))))
        y: Tensor = self.narrow(fold(patches, *even))
        return y


class MobileViTV2(nn.Module):
    """Classifier: (N, 3, H, W) → (N, num_classes). H and W are multiples of 32, the network's total stride."""

    strides = (2, 4, 8, 16, 32)

    def __init__(self, multiplier: float, num_classes: int) -> None:
        super().__init__()
        stem, *widths = (int(width * multiplier) for width in (STEM, *WIDTHS))
        d3, d4, d5 = (int(width * multiplier) for width in ATTENTION_WIDTHS)
        l3, l4, l5 = DEPTHS
        c1, c2, c3, c4, c5 = self.channels = tuple(widths)

        def down(i: int, o: int) -> InvertedResidual:
            return InvertedResidual(i, o, stride=2, expansion=EXPANSION)

        def same(i: int, o: int) -> InvertedResidual:
            return InvertedResidual(i, o, stride=1, expansion=EXPANSION)

        self.stem = ConvNormAct(3, stem, kernel_size=3, stride=2)
        self.stages = nn.Sequential(
            nn.Sequential(same(stem, c1)),
            nn.Sequential(down(c1, c2), same(c2, c2)),
            nn.Sequential(down(c2, c3), MobileViTV2Block(c3, d3, l3)),
            nn.Sequential(down(c3, c4), MobileViTV2Block(c4, d4, l4)),
            nn.Sequential(down(c4, c5), MobileViTV2Block(c5, d5, l5)),
        )
        self.classifier = nn.Linear(c5, num_classes)

    def features(self, x: Tensor) -> list[Tensor]:
        """The map after each of the five stages: (N, channels[i], H / strides[i], W / strides[i]).

        The last three have their sides rounded up to whole patches, so that 224 pixels end as 8, not 7.
        """
        return each_map(self.stages, self.stem(x))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x)[-1].mean(dim=(2, 3)))
        return logits


TIMM_V2_LAYOUT = (*TIMM_LAYOUT, (r"\.qkv_proj\.", ".qkv."), (r"\.out_proj\.", ".proj."))
CVNETS_V2_LAYOUT = (
    *CVNETS_TRUNK,
    (r"\.local_rep\.0\.block\.", ".local."),
    (r"\.local_rep\.1\.block\.conv\.", ".widen."),
    (r"\.pre_norm_attn\.0\.", ".norm1."),
    (r"\.pre_norm_attn\.1\.qkv_proj\.block\.conv\.", ".attention.qkv."),
    (r"\.pre_norm_attn\.1\.out_proj\.block\.conv\.", ".attention.proj."),
    (r"\.pre_norm_ffn\.1\.block\.conv\.", ".mlp.0."),
    (r"\.pre_norm_ffn\.3\.block\.conv\.", ".mlp.2."),
    (r"^classifier\.1\.", "classifier."),
)
# huggingface/transformers (models/mobilevitv2/modeling_mobilevitv2.py).
TRANSFORMERS_V2_LAYOUT = (
    *TRANSFORMERS_TRUNK,
    (r"\.qkv_proj\.convolution\.", ".qkv."),
    (r"\.out_proj\.convolution\.", ".proj."),
    (r"\.ffn\.conv1\.convolution\.", ".mlp.0."),
    (r"\.ffn\.conv2\.convolution\.", ".mlp.2."),
    *TRANSFORMERS_NORMS,
)
# All of them take RGB: the authors read their pictures for version 2 with PIL (apple/ml-cvnets 84d992f, dataset.name
# imagenet in config/classification/imagenet/mobilevit_v2.yaml, and read_image_pil in imagenet.py).
LAYOUTS = {
    "timm": Layout(TIMM_V2_LAYOUT),
    "ml-cvnets": Layout(CVNETS_V2_LAYOUT),
    "transformers": Layout(TRANSFORMERS_V2_LAYOUT),
}


def build(name: str, num_classes: int) -> MobileViTV2:
    """The network of that name with freshly initialised weights, in training mode."""
    model = MobileViTV2(VARIANTS[name], num_classes)
    initialise(model)
    return model
