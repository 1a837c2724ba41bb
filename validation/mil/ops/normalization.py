"""Normalizations (``iOS15/normalization.py``; iOS 17 lets parameters have another precision than the input)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from lvexport.validation.mil.call import Call
from lvexport.validation.mil.table import op


@op("batch_norm")
def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    """x [n, C, *D], parameters [C]."""
    return F.batch_norm(x, mean, variance, gamma, beta, eps=epsilon)


@op("instance_norm")
def instance_norm(
    x: Tensor, call: Call, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: float = 1e-5
) -> Tensor:
    """x [n, C, *D] over *D, parameters [C]."""
    spatial = list(range(2, x.ndim))
    return _scaled(call.sums.standardized(x, spatial, epsilon), gamma, beta, [-1] + [1] * len(spatial))


@op("l2_norm")
def l2_norm(x: Tensor, call: Call, epsilon: float | None = None) -> Tensor:
    """x [*B, d1, d2, d3] over the last three dimensions."""
    epsilon = call.represented(1e-6) if epsilon is None else epsilon
    last = range(x.ndim - 3, x.ndim)
    return x / (call.sums.total(x.square(), last) + epsilon).sqrt()


@op("layer_norm")
def layer_norm(
    x: Tensor,
    call: Call,
    axes: tuple[int, ...] | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    """x over ``axes`` (default all); gamma and beta have the shape that x has there."""
    dims = list(range(x.ndim)) if axes is None else sorted(axis % x.ndim for axis in axes)
    shape = [x.shape[dim] if dim in dims else 1 for dim in range(x.ndim)]
    return _scaled(call.sums.standardized(x, dims, epsilon), gamma, beta, shape)


@op("local_response_norm")
def local_response_norm(
    x: Tensor, size: int, call: Call, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """x [n, C, *D] by the mean square of ``size`` neighbouring channels.

    In x of rank 3 the channels are taken to be the first axis, contrary to the docstring: the values in
    ``tests/iOS14/test_normalization.py`` (TestNormalizationLocalResponseNorm, smoke) are of the third from the end.
    """
    channels = 0 if x.ndim == 3 else 1
    squares = F.pad(x.square().movedim(channels, -1), [size // 2, (size - 1) // 2]).unfold(-1, size, 1)
    means = call.sums.mean(squares, [x.ndim]).squeeze(-1).movedim(-1, channels)
    return x / (k + alpha * means) ** beta


def _scaled(x: Tensor, gamma: Tensor | None, beta: Tensor | None, shape: list[int]) -> Tensor:
    """x · gamma + beta, which have ``shape`` beside x."""
    x = x if gamma is None else x * gamma.reshape(shape)
    return x if beta is None else x + beta.reshape(shape)
