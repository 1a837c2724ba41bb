"""Sums in half precision, one term after the other: the least accurate way in which a device may compute them.

Every term is rounded to float16 (of a product, the product of its float16 factors), and every partial sum is: what
a half-precision accumulator without fused multiply-add does. The order is that of memory, from the left to the right
of the summed dimensions; of a convolution, window place by window place, and at each, channel by channel. A bias
comes last. What is beyond 65,504 on the way is infinite and stays so. Devices add in shorter chains, side by side or
in wider registers, and so stay between this and a float32 accumulator; what overflows here need not overflow there.

An operation may hide an infinite sum (a quotient by it is 0), so that ``overflowed`` tells of one.

What an operation computes besides its sums (an exponential, a root, a quotient) is in float32 and rounded at its end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

# Sums side by side from which on it is cheaper to step through the terms in torch, all sums at once.
WIDE = 64


class Halves:
    """Sums of float16 terms in float16. Takes and gives carriers in float32."""

    def __init__(self) -> None:
        self.overflowed = False

    def total(self, terms: Tensor, dims: Sequence[int]) -> Tensor:
        summed = sorted(dims)
        kept = [dim for dim in range(terms.ndim) if dim not in summed]
        rows = terms.half().permute(summed + kept).reshape(math.prod(terms.shape[dim] for dim in summed), -1)
        shape = [1 if dim in summed else size for dim, size in enumerate(terms.shape)]
        return self._noted(_added_up(rows).reshape(shape).float(), terms)

    def mean(self, terms: Tensor, dims: Sequence[int]) -> Tensor:
        return self.total(terms, dims) / math.prod(terms.shape[dim] for dim in dims)

    def cumulative(self, terms: Tensor, dim: int) -> Tensor:
        return self._noted(_accumulated(terms.half(), dim).float(), terms)

    def softmax(self, x: Tensor, dim: int) -> Tensor:
        raised = _half((x - x.amax(dim, keepdim=True)).exp())
        return raised / self.total(raised, [dim % x.ndim])

    def log_sum_exp(self, x: Tensor, dims: Sequence[int]) -> Tensor:
        largest = x.amax(list(dims), keepdim=True)
        # Of infinite numbers, nothing is taken away: ∞ - ∞ is none.
        shift = torch.where(largest.isinf(), torch.zeros_like(largest), largest)
        return self.total((x - shift).exp(), dims).log() + shift

    def standardized(self, x: Tensor, dims: Sequence[int], epsilon: float) -> Tensor:
        centred = x - self.mean(x, dims)
        return centred / (self.mean(centred.square(), dims) + epsilon).sqrt()

    def window_means(self, x: Tensor, sizes: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
        windows = x
        for axis, (size, stride) in enumerate(zip(sizes, strides, strict=True)):
            windows = windows.unfold(2 + axis, size, stride)
        return self.mean(windows, range(x.ndim, windows.ndim)).reshape(windows.shape[: x.ndim])

    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        left, right = (x.unsqueeze(0) if x.ndim == 1 else x), (y.unsqueeze(1) if y.ndim == 1 else y)
        batch = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
        sums = torch.zeros(*batch, left.shape[-2], right.shape[-1], dtype=torch.half)
        _add_products(sums, left.half(), right.half(), 1)
        sums = sums.squeeze(-1) if y.ndim == 1 else sums
        sums = sums.squeeze(-1 if y.ndim == 1 else -2) if x.ndim == 1 else sums
        return self._noted(sums.float(), x, y)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        sums = self.matmul(x.reshape(-1, x.shape[-1]), weight.T).reshape(*x.shape[:-1], len(weight))
        return sums if bias is None else self._noted(_half(sums + _half(bias)), sums, bias)

    def einsum(self, equation: str, values: tuple[Tensor, ...]) -> Tensor:
        inputs, result = equation.replace(" ", "").split("->")
        operands = inputs.split(",")
        summed = "".join(dict.fromkeys(label for label in "".join(operands) if label not in result))
        pairs = zip(values, operands, strict=True)
        factors = [_aligned(value.half(), labels, summed + result) for value, labels in pairs]
        sizes = np.broadcast_shapes(*(factor.shape for factor in factors))
        sums = torch.zeros(sizes[len(summed) :], dtype=torch.half)
        for place in product(*map(range, sizes[: len(summed)])):
            sums.add_(math.prod(_seen(factor, place) for factor in factors))
        return self._noted(sums.float(), *values)

    def convolved(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        strides: tuple[int, ...],
        padding: tuple[int, ...],
        dilations: tuple[int, ...],
        groups: int,
    ) -> Tensor:
        padded = F.pad(x.half(), [amount for amount in reversed(padding) for _ in range(2)])
        kernel = weight.shape[2:]
        counts = [
            (size - (extent - 1) * dilation - 1) // stride + 1
            for size, extent, stride, dilation in zip(padded.shape[2:], kernel, strides, dilations, strict=True)
        ]
        factors = weight.half().reshape(groups, -1, *weight.shape[1:])  # [groups, C_out/groups, C_in/groups, *K]
        sums = torch.zeros(len(x), *factors.shape[:2], math.prod(counts), dtype=torch.half)
        for place in product(*map(range, kernel)):
            seen = padded[_window(place, counts, strides, dilations)]
            _add_products(sums, factors[_at(place)], seen.reshape(len(x), groups, weight.shape[1], -1), 1)
        if bias is not None:
            sums.add_(bias.half().reshape(groups, -1, 1))
        return self._noted(sums.reshape(len(x), len(weight), *counts).float(), x, weight)

    def spread(
        self, x: Tensor, weight: Tensor, strides: tuple[int, ...], dilations: tuple[int, ...], groups: int
    ) -> Tensor:
        sizes, kernel = list(x.shape[2:]), weight.shape[2:]
        reached = [
            (size - 1) * stride + (extent - 1) * dilation + 1
            for size, extent, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True)
        ]
        factors = weight.half().reshape(groups, -1, *weight.shape[1:]).transpose(1, 2)  # [groups, out, in, *K]
        given = x.half().reshape(len(x), groups, -1, *sizes)
        sums = torch.zeros(len(x), *factors.shape[:2], *reached, dtype=torch.half)
        for place in product(*map(range, kernel)):
            here = sums[(slice(None), *_window(place, sizes, strides, dilations))]
            _add_products(here, factors[_at(place)], given, len(sizes))
        return self._noted(sums.reshape(len(x), -1, *reached).float(), x, weight)

    def _noted(self, sums: Tensor, *terms: Tensor) -> Tensor:
        if not all_finite(sums) and all(map(all_finite, terms)):
            self.overflowed = True
        return sums


def all_finite(x: Tensor) -> bool:
    """Whether x, float16 numbers or such as are not much larger held in float32, has neither infinite ones nor NaN."""
    return math.isfinite(x.sum().item())  # one pass; no sum of so few and such numbers leaves float32's range


def _half(x: Tensor) -> Tensor:
    return x.half().float()


def _aligned(value: Tensor, labels: str, wanted: str) -> Tensor:
    """A view with a dimension for each label of ``wanted``, of size 1 where the value does not have it."""
    own = "".join(label for label in wanted if label in labels)
    value = torch.einsum(f"{labels}->{own}", value).contiguous()
    return value[tuple(slice(None) if label in own else None for label in wanted)]


def _seen(factor: Tensor, place: Sequence[int]) -> Tensor:
    """One place of the first dimensions; where one has size 1, it is everywhere the same."""
    return factor[tuple(min(at, size - 1) for at, size in zip(place, factor.shape, strict=False))]


def _at(place: Sequence[int]) -> tuple[Any, ...]:
    """One place of a kernel, as an index of [..., *K]."""
    return (..., *place)


def _window(
    place: Sequence[int], counts: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[slice, ...]:
    """What lies at ``place`` of every window, as an index of [n, C, *D]."""
    axes = [
        slice(at * dilation, at * dilation + (count - 1) * stride + 1, stride)
        for at, count, stride, dilation in zip(place, counts, strides, dilations, strict=True)
    ]
    return (slice(None), slice(None), *axes)


def _add_products(sums: Tensor, left: Tensor, right: Tensor, inner: int) -> None:
    """sums [*B, M, *I] += Σ over k of left [*B, M, k] · right [*B, k, *I], where *I are ``inner`` dimensions."""
    columns = left.movedim(-1, 0).contiguous()
    columns = columns.reshape(*columns.shape, *([1] * inner))
    rows = right.movedim(-1 - inner, 0).contiguous().unsqueeze(-1 - inner)
    term = torch.empty(sums.shape, dtype=torch.half)
    for column, row in zip(columns, rows, strict=True):
        torch.mul(column, row, out=term)
        sums.add_(term)


def _added_up(rows: Tensor) -> Tensor:
    """float16 [terms, sums] → [sums]."""
    if rows.shape[1] < WIDE and len(rows):
        return _accumulated(rows, 0)[-1]
    sums = torch.zeros(rows.shape[1], dtype=torch.half)
    for row in rows:
        sums.add_(row)
    return sums


def _accumulated(terms: Tensor, dim: int) -> Tensor:
    # NumPy's accumulation is one addition after the other, each rounded; torch's keeps float32 on the way.
    with np.errstate(over="ignore", invalid="ignore"):
        return torch.from_numpy(np.add.accumulate(terms.numpy(), axis=dim, dtype=np.float16))
