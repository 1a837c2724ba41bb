"""Maps keep their channels last: what views move is what they have to, and delegates move no more than that."""

from __future__ import annotations

from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lvexport.converters.rewrites import axes, maps
from lvexport.converters.rewrites.graph import ATEN, calls
from lvexport.validation.metrics import sqnr_db
from tests.rewriting import computed_by_xnnpack, rewritten

NAMES = ["views", "channels-last"]


class Tokens(nn.Module):
    """A layer over the tokens of a map, and back."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.layer, self.after = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, 16), nn.Conv2d(16, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        tokens = self.layer(x.flatten(2).transpose(1, 2))
        return self.after(x + tokens.transpose(1, 2).reshape(x.shape))


class Patches(Tokens):
    """The same over patches of four positions, as in MobileViT, with an activation before the last convolution."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        n, c, h, w = x.shape
        x = x.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 2, 4, 1).reshape(n * 4, h * w // 4, c)
        x = self.layer(x).reshape(n, 2, 2, h // 2, w // 2, c).permute(0, 5, 3, 1, 4, 2).reshape(n, c, h, w)
        return self.after(torch.sigmoid(x) * 2)


class Turned(nn.Module):
    """Columns, rows and channels change places, which is no matter of layout."""

    def __init__(self, order: tuple[int, ...]) -> None:
        super().__init__()
        self.before, self.layer, self.order = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 8), order

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.before(x).permute(self.order).reshape(1, 64, 8))


def orders(module: torch.fx.GraphModule) -> list[list[int]]:
    return [axes.order_of(node) for node in calls(module, ATEN.permute.default)]


def test_tokens_are_the_map_as_it_lies() -> None:
    module = rewritten(Tokens(), torch.randn(1, 3, 8, 8), names=NAMES)
    assert orders(module) == [list(maps.LAST), list(maps.FIRST)]


def test_patches_are_blocks_of_the_rows() -> None:
    module = rewritten(Patches(), torch.randn(2, 3, 8, 8), names=NAMES)
    first, unfolded, folded, last = orders(module)
    assert (first, last) == (list(maps.LAST), list(maps.FIRST))
    assert all(order[-1] == len(order) - 1 for order in (unfolded, folded)), "channels move again"
    (behind,) = calls(module, ATEN.mul.Tensor)
    assert behind.args[0].target is ATEN.sigmoid.default  # type: ignore[union-attr]
    assert [u.target for u in behind.users] == [ATEN.permute.default], "what works number by number comes before"


def test_what_would_move_as_much_stays() -> None:
    class Flat(nn.Module):
        """Positions last, as a map with channels first already has them."""

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(nn.functional.avg_pool2d(x, 2)).flatten(2) * 2

    module = rewritten(Flat(), torch.randn(1, 16, 8, 8), names=NAMES)
    assert orders(module) == []


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_views_of_maps_that_lie_in_another_order_read_the_same(data: st.DataObject) -> None:
    """A chain of reshapes and permutations of a map reads from the map with channels last what it read before."""
    shape = tuple(data.draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=4, max_size=4)))
    numbers, view = torch.arange(prod(shape)).reshape(shape), axes.whole(shape)
    lying = numbers.permute(maps.LAST).reshape(-1)
    for _ in range(data.draw(st.integers(1, 4))):
        order = data.draw(st.permutations(range(numbers.ndim)))
        numbers, view = numbers.permute(order), axes.permuted(view, order)
        cut = [part for size in numbers.shape for part in ((2, size // 2) if size % 2 == 0 else (size,))]
        if (following := axes.reshaped(view, tuple(cut))) is not None:
            numbers, view = numbers.reshape(cut), following
    found = axes.relaid(view, shape, maps.LAST)
    where = torch.tensor([0])
    for size, stride in found.atoms:
        where = (where[:, None] + torch.arange(size) * stride).reshape(-1)
    assert torch.equal(lying[where], numbers.reshape(-1))


@pytest.mark.parametrize(("model", "transposes"), [(Tokens, 2), (Patches, 4)])
def test_xnnpack_moves_a_map_no_more_than_its_views_do(
    model: type[nn.Module], transposes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two transpositions are those of the picture and of what the program gives; patches take one each way."""
    torch.manual_seed(0)
    x = torch.randn(1, 3, 8, 8)
    network = model().requires_grad_(False).eval()
    wanted = network(x)
    module = rewritten(network, x, names=NAMES)
    counted, got = computed_by_xnnpack(module, x, monkeypatch)
    assert sqnr_db(wanted.numpy(), got.numpy()) > 110
    assert counted["XNNStaticTranspose"] == transposes


class Photograph(nn.Module):
    """A network that is given and gives pictures with channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


@pytest.mark.parametrize("names", [[], NAMES])
def test_pictures_with_channels_last_are_taken_as_they_are(names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x, network = torch.randn(1, 8, 6, 3), Photograph().requires_grad_(False).eval()
    counted, got = computed_by_xnnpack(rewritten(network, x, names=names), x, monkeypatch)
    assert sqnr_db(network(x).numpy(), got.numpy()) > 110
    assert counted["XNNStaticTranspose"] == 2


@pytest.mark.parametrize("order", [(0, 3, 2, 1), (0, 2, 1, 3), (0, 3, 1, 2)])
@pytest.mark.parametrize("planted", [False, True])
def test_other_permutations_are_written(order: tuple[int, ...], planted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """``planted``: the delegate takes them for ones that move nothing."""
    from lvexport.converters import xnnpack_kernels

    torch.manual_seed(0)
    x, network = torch.randn(1, 3, 8, 8), Turned(order).requires_grad_(False).eval()
    if planted:
        monkeypatch.setitem(xnnpack_kernels._IN_ORDER, (True, order), torch.contiguous_format)
    module = rewritten(network, x, names=[])
    agreement = sqnr_db(network(x).numpy(), computed_by_xnnpack(module, x, monkeypatch)[1].numpy())
    assert agreement < 20 if planted else agreement > 110
