"""How an operation adds up: what the terms and the partial sums of matrix products, means and the like are kept in.

Operations that sum ask their ``Call`` for one of these and leave the adding to it. ``Single`` is torch's own
arithmetic; ``halves.Halves`` keeps everything in half precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


class Sums(Protocol):
    """Sums over tensors as ``numerics`` holds them. ``dims`` are never negative, and never none.

    Attributes:
        overflowed: whether a sum of finite terms was not finite since this was last set to False.
    """

    overflowed: bool

    def total(self, terms: Tensor, dims: Sequence[int]) -> Tensor:
        """Over ``dims``, which are kept with size 1."""
        ...

    def mean(self, terms: Tensor, dims: Sequence[int]) -> Tensor:
        """Over ``dims``, which are kept with size 1."""
        ...

    def cumulative(self, terms: Tensor, dim: int) -> Tensor:
        """At each place along ``dim``, the sum up to and including it."""
        ...

    def softmax(self, x: Tensor, dim: int) -> Tensor: ...

    def log_sum_exp(self, x: Tensor, dims: Sequence[int]) -> Tensor:
        """Over ``dims``, which are kept with size 1."""
        ...

    def standardized(self, x: Tensor, dims: Sequence[int], epsilon: float) -> Tensor:
        """(x - mean) / √(variance + epsilon), both over ``dims``."""
        ...

    def window_means(self, x: Tensor, sizes: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
        """x [n, C, *D] → [n, C, *windows] of ``sizes`` elements each."""
        ...

    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        """NumPy's."""
        ...

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """x [*D, in], weight [out, in], bias [out] → [*D, out]."""
        ...

    def einsum(self, equation: str, values: tuple[Tensor, ...]) -> Tensor: ...

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
        """x [n, C_in, *D], weight [C_out, C_in/groups, *K]; ``padding`` before and after each axis."""
        ...

    def spread(
        self, x: Tensor, weight: Tensor, strides: tuple[int, ...], dilations: tuple[int, ...], groups: int
    ) -> Tensor:
        """Transposed convolution: x [n, C_in, *D], weight [C_in, C_out/groups, *K] → all places that x reaches."""
        ...


class Single:
    """Sums in the carriers' own precision, by torch."""

    overflowed = False  # float32 is taken to be wide enough

    def total(self, terms: Tensor, dims: Sequence[int]) -> Tensor:
        return terms.sum(list(dims), keepdim=True)

    def mean(self, terms: Tensor, dims: Sequence[int]) -> Tensor:
        return terms.mean(list(dims), keepdim=True)

    def cumulative(self, terms: Tensor, dim: int) -> Tensor:
        return terms.cumsum(dim)

    def softmax(self, x: Tensor, dim: int) -> Tensor:
        return torch.softmax(x, dim)

    def log_sum_exp(self, x: Tensor, dims: Sequence[int]) -> Tensor:
        return x.logsumexp(list(dims), keepdim=True)

    def standardized(self, x: Tensor, dims: Sequence[int], epsilon: float) -> Tensor:
        if sorted(dims) == list(range(x.ndim - len(dims), x.ndim)):
            return F.layer_norm(x, x.shape[x.ndim - len(dims) :], eps=epsilon)
        variance, mean = torch.var_mean(x, dim=list(dims), correction=0, keepdim=True)
        return (x - mean) / (variance + epsilon).sqrt()

    def window_means(self, x: Tensor, sizes: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
        return AVERAGE[x.ndim - 2](x, sizes, strides)

    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.matmul(x, y)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    def einsum(self, equation: str, values: tuple[Tensor, ...]) -> Tensor:
        return torch.einsum(equation, *values)

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
        return CONV[x.ndim - 2](x, weight, bias, strides, padding, dilations, groups)

    def spread(
        self, x: Tensor, weight: Tensor, strides: tuple[int, ...], dilations: tuple[int, ...], groups: int
    ) -> Tensor:
        return CONV_TRANSPOSE[x.ndim - 2](x, weight, None, strides, 0, 0, groups, dilations)


SINGLE = Single()
