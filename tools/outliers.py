"""Checkpoints that answer what the demo networks do, with channels of unlike range, on which 8 bits are tried.

Where a network is linear in each channel, or positively homogeneous as under ReLU, factors in the layer before and
their inverse in the layer behind change nothing. Here each such channel gets a factor of its own, drawn over so many
decades: what trained networks do by themselves in a few channels (Bondarenko et al., arXiv 2109.12948), done to all.

    python -m tools.outliers mobilevit_xxs mobilevit_xxs-outliers.safetensors
    lvexport mobilevit_xxs --weights mobilevit_xxs-outliers.safetensors --to tflite --quantize w8a8,mixed
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import lvexport
from lvexport.models.efficientformer import HEADS, KEY_WIDTH, Block3D, Block4D, EfficientFormer
from lvexport.models.mobile_former import Bottleneck, MobileFormer, MobileToFormer
from lvexport.models.mobilevit import MobileViT

CHECKPOINTS = Path(__file__).parent.parent / "models" / "checkpoints"
NAMES = sorted(path.stem for path in CHECKPOINTS.glob("*.safetensors"))


@dataclass
class Factors:
    """Draws them. ``decades``: between the least and the greatest that can be drawn."""

    decades: float
    random: torch.Generator

    def draw(self, channels: int) -> Tensor:
        exponents = (torch.rand(channels, generator=self.random, dtype=torch.float64) - 0.5) * self.decades
        return torch.pow(10.0, exponents)

    def between(self, before: Iterable[nn.Module], behind: Iterable[nn.Module]) -> None:
        """Scale what some layers give, and undo it in all that take it."""
        before = list(before)
        factors = self.draw(len(before[0].weight))
        for layer in before:
            multiply(layer, factors)
        for layer in behind:
            divide(layer, factors)


def multiply(layer: Any, factors: Tensor) -> None:
    """What a layer or a normalisation gives, by one factor for each channel."""
    for parameter in (layer.weight, layer.bias):
        if parameter is not None:
            parameter *= factors.reshape(-1, *(1 for _ in parameter.shape[1:]))


def divide(layer: Any, factors: Tensor) -> None:
    """A layer's weights, by a factor for each channel that it takes."""
    groups = getattr(layer, "groups", 1)
    columns = factors.reshape(groups, -1).repeat_interleave(len(layer.weight) // groups, dim=0)
    layer.weight /= columns.reshape(*columns.shape, *(1 for _ in layer.weight.shape[2:]))


def shuffled(shuffle: nn.Module, factors: Tensor) -> Tensor:
    moved: Tensor = shuffle(factors.reshape(1, -1, 1, 1))
    return moved.flatten()


def attend(qkv: Any, proj: Any, rows: Tensor, keys: int, draw: Factors) -> None:
    """``rows``: (heads, queries, keys and values behind each other), where qkv gives them; ``keys``: a head's width."""
    q, k, v = (part.flatten() for part in rows.split((keys, keys, rows.shape[1] - 2 * keys), dim=1))
    factors = torch.ones(len(qkv.weight), dtype=torch.float64)
    factors[q], factors[v] = draw.draw(len(q)), draw.draw(len(v))
    factors[k] = 1 / factors[q]
    multiply(qkv, factors)
    divide(proj, factors[v])


def mobilevit(model: MobileViT, draw: Factors) -> None:
    stages: Any = model.stages
    down, *same = stages[1]
    draw.between([b.project.norm for b in (down, *same)], [b.expand.conv for b in (*same, stages[2][0])])
    for before, block in stages[2:]:
        factors = draw.draw(len(before.project.norm.weight))
        multiply(before.project.norm, factors)
        divide(block.local.conv, factors)
        divide(block.fuse.conv, torch.cat((factors, torch.ones_like(factors))))
        for layer in block.transformer:
            draw.between([layer.norm1], [layer.attention.qkv])
            draw.between([layer.norm2], [layer.mlp[0]])
            heads, width = layer.attention.heads, len(layer.attention.proj.weight)
            rows = torch.arange(3 * width).reshape(3, heads, -1).transpose(0, 1).reshape(heads, -1)
            attend(layer.attention.qkv, layer.attention.proj, rows, width // heads, draw)
        draw.between([block.norm], [block.narrow.conv])


def efficientformer(model: EfficientFormer, draw: Factors) -> None:
    stem: Any = model.stem
    draw.between([stem[0].norm], [stem[1].conv])  # through ReLU
    writer = stem[1].norm
    stages: Any = model.stages
    for stage, following in zip(stages, [*stages[1:], None], strict=True):
        if not isinstance(stage.downsample, nn.Identity):
            writer = stage.downsample.norm
        flat = [block for block in stage.blocks if isinstance(block, Block4D)]
        if following is not None:  # the last stage ends in layer normalisations, which see their input's range
            factors = draw.draw(len(writer.weight))
            multiply(writer, factors)
            for block in flat:
                divide(block.mlp.expand, factors)
                block.scale2 *= factors
            divide(following.downsample.conv, factors)
        for block in stage.blocks:
            if isinstance(block, Block3D):
                of: Any = block.attention
                draw.between([block.norm1], [of.qkv])
                draw.between([block.norm2], [block.mlp.expand])
                attend(of.qkv, of.proj, torch.arange(len(of.qkv.weight)).reshape(HEADS, -1), KEY_WIDTH, draw)
                scale(of.proj, block.scale1, draw)
                scale(block.mlp.reduce, block.scale2, draw)
            elif isinstance(block, Block4D):
                scale(block.mlp.reduce_norm, block.scale2, draw)
    draw.between([model.norm], [model.classifier.label, model.classifier.teacher])


def scale(layer: Any, layer_scale: Tensor, draw: Factors) -> None:
    """Between a layer and the layer scale behind it."""
    factors = draw.draw(len(layer_scale))
    multiply(layer, factors)
    layer_scale /= factors


def mobile_former(model: MobileFormer, draw: Factors) -> None:
    blocks: Any = model.blocks
    factors = draw.draw(len(model.first.pointwise.norm.weight))
    multiply(model.first.pointwise.norm, factors)
    for block in blocks:
        from_map(block.to_former, factors)
        kept = isinstance(block.mobile, Bottleneck) and block.mobile.residual
        after = factors if kept else draw.draw(len(block.to_mobile.value.weight))
        (bottleneck if isinstance(block.mobile, Bottleneck) else halving)(block.mobile, factors, after, draw)
        multiply(block.to_mobile.key, 1 / after)
        multiply(block.to_mobile.value, after)
        factors = after
    from_map(model.to_former, factors)
    divide(model.head.conv, shuffled(model.shuffle, factors))


def from_map(bridge: MobileToFormer, factors: Tensor) -> None:
    """Undo a map's factors where tokens look at it: in the queries, and behind what they gather."""
    multiply(bridge.query, 1 / factors)
    divide(bridge.proj, factors)


def bottleneck(mobile: Any, before: Tensor, after: Tensor, draw: Factors) -> None:
    divide(mobile.conv1.conv, before)
    through_relu(mobile.conv1, mobile.conv2.conv, draw)
    through_relu(mobile.conv2, mobile.conv3.conv, draw)
    multiply(mobile.conv3.norm, given(mobile.conv3, after))


def halving(mobile: Any, before: Tensor, after: Tensor, draw: Factors) -> None:
    divide(mobile.conv1.conv, before)
    through_relu(mobile.conv1, mobile.conv2.conv, draw)
    multiply(mobile.conv2.norm, given(mobile.conv2, after))
    divide(mobile.conv3.conv, after)
    through_relu(mobile.conv3, mobile.conv4.conv, draw)
    multiply(mobile.conv4.norm, given(mobile.conv4, after))


def through_relu(before: Any, behind: nn.Module, draw: Factors) -> None:
    """Between two convolutions with a dynamic ReLU, whose slopes are of a channel's whole range."""
    factors = draw.draw(len(before.norm.weight))
    multiply(before.norm, given(before, factors))
    divide(behind, factors)


def given(layer: Any, factors: Tensor) -> Tensor:
    """Factors of what a convolution gives, in the order of its normalisation, before the shuffle."""
    if not hasattr(layer, "shuffle"):
        return factors
    order = shuffled(layer.shuffle, torch.arange(len(factors)))
    return torch.empty_like(factors).index_copy(0, order, factors)


FAMILIES = {MobileViT: mobilevit, EfficientFormer: efficientformer, MobileFormer: mobile_former}


def scale_channels(model: nn.Module, decades: float, seed: int) -> None:
    """Scale the channels of a demo network in place, in the precision of its weights."""
    with torch.no_grad():
        FAMILIES[type(model)](model, Factors(decades, torch.Generator().manual_seed(seed)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", choices=NAMES)
    parser.add_argument("output", type=Path)
    parser.add_argument("--decades", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    typed = parser.parse_args()
    path = CHECKPOINTS / f"{typed.checkpoint}.safetensors"
    with safe_open(path, "pt") as file:
        about = file.metadata()
    model = lvexport.build(about["model"], weights=path).double().eval()
    scale_channels(model, typed.decades, typed.seed)
    save_file(model.float().state_dict(), typed.output, about)


if __name__ == "__main__":
    main()
