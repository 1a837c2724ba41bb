"""MobileViT, version 1 (Mehta and Rastegari, arXiv 2110.02178).

A MobileNetV2 trunk in which the last three stages end in a MobileViT block: convolutions describe each
neighbourhood, then a transformer relates positions across the whole map, with patches unfolded so that
every position inside a patch attends to the same position of all the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lvexport.models.layers import PATCH, ConvNormAct, InvertedResidual, TransformerBlock, each_map, initialise, tiled
from lvexport.models.layouts import Fusion, Layout

HEADS = 4  # attention heads, at every stage (paper's released configurations)
MLP_RATIO = 2  # width of the transformer's hidden layer over its own (paper, section 4.1)


@dataclass(frozen=True)
class Variant:
    """One row of the paper's table 4. Depths of the transformers are the same for all: 2, 4, 3."""

    stem: int
    widths: tuple[int, int, int, int, int]  # output channels of the five stages
    transformer_widths: tuple[int, int, int]  # stages 3, 4, 5
    head: int  # channels of the last 1×1 convolution
    expansion: int  # of the inverted residuals
    transformer_depths: tuple[int, int, int] = (2, 4, 3)


VARIANTS = {
    "mobilevit_xxs": Variant(16, (16, 24, 48, 64, 80), (64, 80, 96), 320, expansion=2),
    "mobilevit_xs": Variant(16, (32, 48, 64, 80, 96), (96, 120, 144), 384, expansion=4),
    "mobilevit_s": Variant(16, (32, 64, 96, 128, 160), (144, 192, 240), 640, expansion=4),
}


def unfold(x: Tensor) -> Tensor:
    """(N, C, H, W) → (N·P, H·W/P, C): position by position, P = PATCH² positions in a patch.

    Written with four dimensions at most, which every converter takes.
    """
    n, c, h, w = x.shape
    rows, columns = h // PATCH, w // PATCH
    x = x.reshape(n * c * rows, PATCH, columns, PATCH).transpose(1, 2)
    x = x.reshape(n, c, rows * columns, PATCH * PATCH).transpose(1, 3)
    return x.reshape(n * PATCH * PATCH, rows * columns, c)


def fold(x: Tensor, batch: int, height: int, width: int) -> Tensor:
    """Inverse of :func:`unfold`: (N·P, H·W/P, C) → (N, C, H, W)."""
    rows, columns = height // PATCH, width // PATCH
    c = x.shape[-1]
    x = x.reshape(batch, PATCH * PATCH, rows * columns, c).transpose(1, 3)
    x = x.reshape(batch * c * rows, columns, PATCH, PATCH).transpose(1, 2)
    return x.reshape(batch, c, height, width)


class MobileViTBlock(nn.Module):
    """Local 3×3, 1×1 to the transformer's width, unfold, transformer, fold, 1×1 back, concatenate, fuse."""

    def __init__(self, channels: int, width: int, depth: int) -> None:
        super().__init__()
        self.local = ConvNormAct(channels, channels, kernel_size=3)
        self.widen = nn.Conv2d(channels, width, kernel_size=1, bias=False)
        self.transformer = nn.Sequential(*(TransformerBlock(width, HEADS, MLP_RATIO) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.narrow = ConvNormAct(width, channels)
        self.fuse = ConvNormAct(2 * channels, channels, kernel_size=3)

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        y = self.widen(self.local(x))
        # A map that whole patches do not tile is resized around the transformer, as the authors' code does.
        even = tiled(h, w)
        if even != (h, w):
            y = F.interpolate(y, size=even, mode="bilinear", align_corners=False)
        y = fold(self.norm(self.transformer(unfold(y))), n, *even)
        if even != (h, w):
            y = F.interpolate(y, size=(h, w), mode="bilinear", align_corners=False)
        fused: Tensor = self.fuse(torch.cat((x, self.narrow(y)), dim=1))
        return fused


class MobileViT(nn.Module):
    """Classifier: (N, 3, H, W) → (N, num_classes). H and W are multiples of 32, the network's total stride."""

    strides = (2, 4, 8, 16, 32)

    def __init__(self, variant: Variant, num_classes: int) -> None:
        super().__init__()
        v = variant
        c1, c2, c3, c4, c5 = self.channels = v.widths
        d3, d4, d5 = v.transformer_widths
        l3, l4, l5 = v.transformer_depths

        def down(i: int, o: int) -> InvertedResidual:
            return InvertedResidual(i, o, stride=2, expansion=v.expansion)

        def same(i: int, o: int) -> InvertedResidual:
            return InvertedResidual(i, o, stride=1, expansion=v.expansion)

        self.stem = ConvNormAct(3, v.stem, kernel_size=3, stride=2)
        self.stages = nn.Sequential(
            nn.Sequential(same(v.stem, c1)),
            nn.Sequential(down(c1, c2), same(c2, c2), same(c2, c2)),
            nn.Sequential(down(c2, c3), MobileViTBlock(c3, d3, l3)),
            nn.Sequential(down(c3, c4), MobileViTBlock(c4, d4, l4)),
            nn.Sequential(down(c4, c5), MobileViTBlock(c5, d5, l5)),
        )
        self.head = ConvNormAct(c5, v.head)
        self.classifier = nn.Linear(v.head, num_classes)

    def features(self, x: Tensor) -> list[Tensor]:
        """The map after each of the five stages: (N, channels[i], H / strides[i], W / strides[i])."""
        return each_map(self.stages, self.stem(x))

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.features(x)[-1])
        logits: Tensor = self.classifier(x.mean(dim=(2, 3)))
        return logits


# timm's ByobNet spelling of the same tensors, as (pattern, replacement) for re.sub, applied in this order.
TIMM_LAYOUT = (
    (r"\.bn\.", ".norm."),
    (r"\.conv1_1x1\.", ".expand."),
    (r"\.conv2_kxk\.", ".depthwise."),
    (r"\.conv3_1x1\.", ".project."),
    (r"\.conv_kxk\.", ".local."),
    (r"\.conv_1x1\.", ".widen."),
    (r"\.conv_proj\.", ".narrow."),
    (r"\.conv_fusion\.", ".fuse."),
    (r"\.attn\.", ".attention."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.2."),
    (r"^final_conv\.", "head."),
    (r"^head\.fc\.", "classifier."),
)
# apple/ml-cvnets (cvnets/models/classification/mobilevit.py, cvnets/modules).
CVNETS_TRUNK = (
    (r"^conv_1\.block\.", "stem."),
    *((rf"^layer_{stage + 1}\.", f"stages.{stage}.") for stage in range(5)),
    (r"\.block\.exp_1x1\.block\.", ".expand."),
    (r"\.block\.conv_3x3\.block\.", ".depthwise."),
    (r"\.block\.red_1x1\.block\.", ".project."),
    (r"\.global_rep\.\d+\.(weight|bias)$", r".norm.\1"),
    (r"\.global_rep\.", ".transformer."),
    (r"\.pre_norm_ffn\.0\.", ".norm2."),
    (r"\.conv_proj\.block\.", ".narrow."),
)
CVNETS_LAYOUT = (
    *CVNETS_TRUNK,
    (r"\.local_rep\.conv_3x3\.block\.", ".local."),
    (r"\.local_rep\.conv_1x1\.block\.conv\.", ".widen."),
    (r"\.pre_norm_mha\.0\.", ".norm1."),
    (r"\.pre_norm_mha\.1\.qkv_proj\.", ".attention.qkv."),
    (r"\.pre_norm_mha\.1\.out_proj\.", ".attention.proj."),
    (r"\.pre_norm_ffn\.1\.", ".mlp.0."),
    (r"\.pre_norm_ffn\.4\.", ".mlp.2."),
    (r"\.fusion\.block\.", ".fuse."),
    (r"^conv_1x1_exp\.block\.", "head."),
    (r"^classifier\.fc\.", "classifier."),
)

# huggingface/transformers (models/mobilevit/modeling_mobilevit.py).
TRANSFORMERS_TRUNK = (
    (r"^mobilevit(v2)?\.", ""),
    (r"^conv_stem\.", "stem."),
    (r"^encoder\.layer\.(\d)\.layer\.", r"stages.\1."),
    (r"^encoder\.layer\.(\d)\.downsampling_layer\.", r"stages.\1.0."),
    (r"^encoder\.layer\.(\d)\.", r"stages.\1.1."),
    (r"\.expand_1x1\.", ".expand."),
    (r"\.conv_3x3\.", ".depthwise."),
    (r"\.reduce_1x1\.", ".project."),
    (r"\.conv_kxk\.", ".local."),
    (r"\.conv_1x1\.convolution\.", ".widen."),
    (r"\.conv_projection\.", ".narrow."),
    (r"\.transformer\.layer\.", ".transformer."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.layernorm\.", ".norm."),
)
TRANSFORMERS_NORMS = ((r"\.convolution\.", ".conv."), (r"\.normalization\.", ".norm."))
TRANSFORMERS_LAYOUT = (
    *TRANSFORMERS_TRUNK,
    *TRANSFORMERS_NORMS,
    (r"\.attention\.attention\.", ".attention."),
    (r"\.attention\.output\.dense\.", ".attention.proj."),
    (r"\.intermediate\.dense\.", ".mlp.0."),
    (r"\.output\.dense\.", ".mlp.2."),
    (r"\.fusion\.", ".fuse."),
    (r"^conv_1x1_exp\.", "head."),
)

# The authors read their pictures with OpenCV, blue first: apple/ml-cvnets 84d992f has dataset.name imagenet_opencv in
# config/classification/imagenet/mobilevit.yaml, and cv2.imread, "read in BGR Format", in data/datasets/dataset_base.py.
# transformers took these numbers as they are (do_flip_channel_order in image_processing_mobilevit.py). timm feeds RGB,
# as to all networks, and results-imagenet.csv there has the accuracies of the paper, so its own files take RGB.
BLUE_FIRST = "BGR"
LAYOUTS = {
    "timm": Layout(TIMM_LAYOUT),
    "ml-cvnets": Layout(CVNETS_LAYOUT, channels=BLUE_FIRST),
    "transformers": Layout(
        TRANSFORMERS_LAYOUT, fuse=(Fusion((".query.", ".key.", ".value."), ".qkv."),), channels=BLUE_FIRST
    ),
}


def build(name: str, num_classes: int) -> MobileViT:
    """The network of that name with freshly initialised weights, in training mode."""
    model = MobileViT(VARIANTS[name], num_classes)
    initialise(model)
    return model
