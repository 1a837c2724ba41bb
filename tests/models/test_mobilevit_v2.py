"""MobileViT, version 2, against its paper."""

from __future__ import annotations

import torch
from torch import Tensor

from lvexport.models.mobilevit_v2 import MobileViTV2, SeparableAttention


def by_the_paper(attention: SeparableAttention, x: Tensor) -> Tensor:
    """Separable self-attention over one position's patches, (C, patches), written as the paper's equation reads."""
    weight, bias = attention.qkv.weight[:, :, 0, 0], attention.qkv.bias
    assert bias is not None
    d = attention.width
    projected = weight @ x + bias[:, None]
    scores = projected[0].softmax(dim=0)
    context = sum(score * key for score, key in zip(scores, projected[1 : d + 1].T, strict=True))
    mixed = projected[d + 1 :].relu() * context[:, None]
    assert attention.proj.bias is not None
    return attention.proj.weight[:, :, 0, 0] @ mixed + attention.proj.bias[:, None]


def test_separable_attention_is_that_of_the_paper_at_every_position() -> None:
    attention = SeparableAttention(6).requires_grad_(False)
    x = torch.randn(2, 6, 4, 5)
    got = attention(x)
    for image in range(2):
        for position in range(4):
            expected = by_the_paper(attention, x[image, :, position])
            assert torch.allclose(got[image, :, position], expected, atol=1e-6)


def test_an_odd_map_is_rounded_up_to_whole_patches() -> None:
    network = MobileViTV2(0.5, 10).eval().requires_grad_(False)
    assert network.features(torch.rand(1, 3, 96, 64))[-1].shape[2:] == (4, 2)
