"""Half-precision sums against additions written out one by one in NumPy's float16."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from lvexport.validation.mil.halves import WIDE, Halves
from lvexport.validation.mil.sums import SINGLE

RNG = np.random.default_rng(3)
F16 = np.float16
HALVES = Halves()


def halves(*shape: int) -> torch.Tensor:
    return torch.from_numpy(RNG.standard_normal(shape).astype(F16).astype(np.float32))


def chain(terms) -> np.float16:
    total = F16(0)
    with np.errstate(over="ignore"):
        for term in terms:
            total = F16(total + F16(term))
    return total


def products(left: torch.Tensor, right: torch.Tensor) -> np.float16:
    with np.errstate(over="ignore"):
        return chain(F16(x) * F16(y) for x, y in zip(left.tolist(), right.tolist(), strict=True))


@pytest.mark.parametrize("across", [3, WIDE + 1])
def test_totals_are_chains_in_the_order_of_memory(across: int) -> None:
    x = halves(40, across, 5)
    total = HALVES.total(x, [2, 0])
    assert total.shape == (1, across, 1)
    for i in range(across):
        assert total[0, i, 0].item() == chain(x[:, i].flatten().tolist())
    assert not torch.equal(total, SINGLE.total(x, [2, 0]).half().float())


def test_means_and_running_sums() -> None:
    x = halves(2, 300)
    assert HALVES.mean(x, [1])[1, 0].item() == np.float32(chain(x[1].tolist())) / np.float32(300)
    running = HALVES.cumulative(x, 1)
    assert [running[0, i].item() for i in (0, 7, 299)] == [chain(x[0, : i + 1].tolist()) for i in (0, 7, 299)]


@pytest.mark.parametrize(
    ("x", "y"), [((2, 1, 4, 50), (3, 50, 6)), ((50,), (50,)), ((50,), (3, 50, 2)), ((3, 4, 50), (50,))]
)
def test_matrix_products_are_chains_of_rounded_products(x: tuple[int, ...], y: tuple[int, ...]) -> None:
    left, right = halves(*x), halves(*y)
    result, exact = HALVES.matmul(left, right), torch.matmul(left, right)
    assert result.shape == exact.shape
    rows = left.reshape(1, -1) if left.ndim == 1 else left[(0,) * (left.ndim - 2)]
    columns = right.reshape(-1, 1) if right.ndim == 1 else right[(0,) * (right.ndim - 2)]
    assert result.reshape(-1)[0].item() == products(rows[0], columns[:, 0])
    torch.testing.assert_close(result, exact, rtol=0.03, atol=0.1)
    assert not torch.equal(result, exact.half().float())


def test_linear_adds_its_bias_last() -> None:
    x, weight, bias = halves(3, 20), halves(4, 20), halves(4)
    result = HALVES.linear(x, weight, bias)
    assert result[1, 2].item() == F16(products(x[1], weight[2]) + F16(bias[2].item()))


@pytest.mark.parametrize("equation", ["nchw,nwhu->nchu", "abcd,adce->abce"])
def test_einsum_multiplies_matrices_and_broadcasts(equation: str) -> None:
    x, y = halves(2, 3, 4, 5), halves(1, 5, 4, 6)
    result = HALVES.einsum(equation, (x, y))
    assert result[1, 2, 3, 4].item() == products(x[1, 2, 3], y[0, :, 3, 4])
    assert result.shape == (2, 3, 4, 6)


def test_einsum_over_several_dimensions() -> None:
    x, y = halves(3, 4, 5), halves(5, 2, 4, 6)
    result = HALVES.einsum("abc,cdbe->ade", (x, y))
    assert result.shape == (3, 2, 6)
    assert result[2, 1, 5].item() == products(x[2].flatten(), y[:, 1, :, 5].T.flatten())


def test_einsum_that_is_no_product_of_matrices() -> None:
    x, y = halves(3, 4, 5), halves(5, 6)
    result = HALVES.einsum("abc,cd->ad", (x, y))
    assert result[2, 1].item() == products(x[2].flatten(), y[:, 1].repeat(4))
    alone = HALVES.einsum("abc,de->ae", (x, y))
    assert alone[1, 3].item() == products(x[1].flatten().repeat_interleave(5), y[:, 3].repeat(20))
    square = halves(4, 4)
    torch.testing.assert_close(
        HALVES.einsum("ii,i->i", (square, square[0])), (square.diag() * square[0]).half().float()
    )


@pytest.mark.parametrize(
    ("rank", "groups", "strides", "dilations"),
    [(1, 1, (2,), (1,)), (2, 1, (1, 1), (1, 1)), (2, 4, (2, 1), (1, 2)), (3, 2, (1, 2, 1), (1, 1, 1))],
)
def test_convolutions_both_ways(rank: int, groups: int, strides: tuple[int, ...], dilations: tuple[int, ...]) -> None:
    x, bias = halves(2, 4, *(6,) * rank), halves(8)
    weight, back = halves(8, 4 // groups, *(3,) * rank), halves(4, 8 // groups, *(3,) * rank)
    there = (weight, bias, strides, (1,) * rank, dilations, groups)
    result, exact = HALVES.convolved(x, *there), SINGLE.convolved(x, *there)
    assert result.shape == exact.shape
    torch.testing.assert_close(result, exact, rtol=0.02, atol=0.05)
    spread, wanted = (sums.spread(x, back, strides, dilations, groups) for sums in (HALVES, SINGLE))
    assert spread.shape == wanted.shape
    torch.testing.assert_close(spread, wanted, rtol=0.02, atol=0.05)


def test_a_convolution_adds_place_by_place_and_then_channel_by_channel() -> None:
    x, weight, bias = halves(1, 5, 3, 3), halves(2, 5, 3, 3), halves(2)
    result = HALVES.convolved(x, weight, bias, (1, 1), (0, 0), (1, 1), 1)
    places = list(itertools.product(range(3), range(3)))
    seen = torch.cat([x[0, :, i, j] for i, j in places])
    factors = torch.cat([weight[1, :, i, j] for i, j in places])
    assert result[0, 1, 0, 0].item() == F16(products(seen, factors) + F16(bias[1].item()))


def test_pooling_softmax_and_standardization_come_near() -> None:
    x = halves(2, 3, 8, 8)
    cases = {
        "window_means": (x, (3, 2), (2, 1)),
        "softmax": (x, -2),
        "log_sum_exp": (x, [1, 2]),
        "standardized": (x, [2, 3], 1e-5),
    }
    for name, given in cases.items():
        result, exact = getattr(HALVES, name)(*given), getattr(SINGLE, name)(*given)
        torch.testing.assert_close(result, exact, rtol=0.02, atol=0.02)
        assert not torch.equal(result, exact), name


def test_log_sum_exp_of_infinite_numbers() -> None:
    x = torch.tensor([[-torch.inf, -torch.inf], [torch.inf, 0.0], [-torch.inf, 1.0]])
    assert HALVES.log_sum_exp(x, [1]).flatten().tolist() == [-torch.inf, torch.inf, 1.0]


def test_what_is_too_large_on_the_way_stays_infinite() -> None:
    x = torch.tensor([[40000.0, 40000.0, -40000.0]])
    assert SINGLE.total(x, [1]).item() == 40000
    assert HALVES.total(x, [1]).item() == torch.inf
    product = HALVES.matmul(torch.tensor([[300.0, 1.0]]), torch.tensor([[300.0], [-40000.0]]))
    assert product.item() == torch.inf  # 300² alone is too large
    assert HALVES.total(torch.ones(1, 4096), [1]).item() == 2048  # 2,048 + 1 is no float16


def test_an_infinite_sum_of_finite_terms_is_noted() -> None:
    large, infinite = torch.full((1, 4, 9), 30000.0), torch.tensor([[torch.inf, 1.0]])
    cases = {
        "standardized": (large + torch.arange(9.0) * 64, [2], 1e-5),  # finite: what is divided by infinity is 0
        "total": (large, [2]),
        "cumulative": (large, 2),
        "matmul": (large, large.mT),
        "linear": (torch.zeros(1, 9), torch.zeros(4, 9), torch.full((4,), 70000.0)),
        "convolved": (large, torch.ones(2, 4, 3), None, (1,), (0,), (1,), 1),
        "spread": (large, torch.ones(4, 2, 3), (1,), (1,), 1),
    }
    for name, given in cases.items():
        sums = Halves()
        getattr(sums, name)(*given)
        assert sums.overflowed, name
    sums = Halves()
    sums.softmax(large, 2)
    sums.total(infinite, [1])
    assert not sums.overflowed
