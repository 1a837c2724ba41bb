"""Mobile-Former against its paper and the official code's block tables."""

from __future__ import annotations

import torch

from lvexport.models.mobile_former import VARIANTS, DynamicReLU, FormerToMobile, MobileFormer, MobileToFormer, Shuffle

# Blocks and resolutions of the official tables: (channels, times that the map has been halved behind the block).
OFFICIAL_294M = [
    *[(16, 1), (24, 2), (24, 2), (48, 3), (48, 3), (96, 4), (96, 4), (128, 4), (128, 4)],
    *[(192, 5), (192, 5), (192, 5)],
]
OFFICIAL_26M = [(12, 2), (12, 2), (24, 3), (24, 3), (48, 4), (48, 4), (64, 4), (96, 5), (96, 5)]


def test_block_tables_are_the_official_ones() -> None:
    for name, table in (("mobile_former_294m", OFFICIAL_294M), ("mobile_former_26m", OFFICIAL_26M)):
        network = MobileFormer(VARIANTS[name], 10).eval().requires_grad_(False)
        maps, tokens = network.trunk(torch.rand(1, 3, 64, 64))
        assert [(m.shape[1], m.shape[2]) for m in maps] == [(channels, 64 >> halvings) for channels, halvings in table]
        assert tokens.shape == (VARIANTS[name].tokens, 1, VARIANTS[name].token_width)


def test_shuffle_deals_every_groups_channels_round() -> None:
    x = torch.arange(6.0).reshape(1, 6, 1, 1)
    assert Shuffle(2)(x).flatten().tolist() == [0, 3, 1, 4, 2, 5]


def test_dynamic_relu_takes_its_slopes_from_the_first_token() -> None:
    relu = DynamicReLU(4, 8).requires_grad_(False)
    tokens, x = torch.randn(3, 2, 8), torch.randn(2, 4, 5, 5)
    slopes = relu.hyper(tokens[0])
    first, second = 2 * slopes[:, :4, None, None], 2 * slopes[:, 4:, None, None] - 1
    assert torch.allclose(relu(x, tokens), torch.maximum(first * x, second * x), atol=1e-6)
    others = torch.cat((tokens[:1], torch.randn(2, 2, 8)))
    assert torch.equal(relu(x, others), relu(x, tokens))


def test_tokens_gather_from_the_map_as_the_paper_says() -> None:
    """[Attn(z W^Q, x, x)] by heads, the map being key and value itself."""
    bridge = MobileToFormer(6, 8).requires_grad_(False)
    tokens, x = torch.randn(3, 2, 8), torch.randn(2, 6, 4, 5)
    expected = torch.empty(3, 2, 6)
    for n in range(2):
        queries = bridge.query(tokens[:, n])
        for head in (slice(0, 3), slice(3, 6)):
            pixels = x[n, head].flatten(1)
            weights = (queries[:, head] @ pixels / 3**0.5).softmax(dim=1)
            expected[:, n, head] = weights @ pixels.T
    expected = bridge.norm(tokens + bridge.proj(expected * 2 * bridge.gate(tokens)))
    assert torch.allclose(bridge(x, tokens), expected, atol=1e-5)


def test_the_map_takes_from_the_tokens_as_the_paper_says() -> None:
    """[Attn(x, z W^K, z W^V)] by heads, the map being the query itself."""
    bridge = FormerToMobile(6, 8).requires_grad_(False)
    tokens, x = torch.randn(3, 2, 8), torch.randn(2, 6, 4, 5)
    expected = x.clone()
    for n in range(2):
        keys, values = bridge.key(tokens[:, n]), bridge.value(tokens[:, n])
        for head in (slice(0, 3), slice(3, 6)):
            pixels = x[n, head].flatten(1).T
            weights = (pixels @ keys[:, head].T / 3**0.5).softmax(dim=1)
            expected[n, head] += (weights @ values[:, head]).T.reshape(3, 4, 5)
    assert torch.allclose(bridge(x, tokens), expected, atol=1e-5)
