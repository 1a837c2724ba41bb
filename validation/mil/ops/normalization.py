"""Normalizations (``iOS15/normalization.py``; iOS 17 lets parameters have another precision than the input)."""

from __future__ import annotations

import torch
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
def instance_norm(x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: float = 1e-5) -> Tensor:
    """x [n, C, *D] over *D, parameters [C]."""
    spatial = list(range(2, x.ndim))
    normal = _standardized(x, spatial, epsilon)
    shape = (-1, *([1] * len(spatial)))
    return _scaled(
        normal, None if gamma is None else gamma.reshape(shape), None if beta is None else beta.reshape(shape)
    )


@op("l2_norm")
def l2_norm(x: Tensor, call: Call, epsilon: float | None = None) -> Tensor:
    """x [*B, d1, d2, d3] over the last three dimensions."""
    epsilon = call.represented(1e-6) if epsilon is None else epsilon
    return x / (x.square().sum(dim=(-3, -2, -1), keepdim=True) + epsilon).sqrt()


@op("layer_norm")
def layer_norm(
    x: Tensor,
    axes: tuple[int, ...] | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    """x over ``axes`` (default all); gamma and beta have the shape that x has there."""
    dims = list(range(x.ndim)) if axes is None else sorted(axis % x.ndim for axis in axes)
    if dims == list(range(x.ndim - len(dims), x.ndim)):
        return F.layer_norm(x, [x.shape[dim] for dim in dims], gamma, beta, epsilon)
    shape = [x.shape[dim] if dim in dims else 1 for dim in range(x.ndim)]
    normal = _standardized(x, dims, epsilon)
    return _scaled(
        normal, None if gamma is None else gamma.reshape(shape), None if beta is None else beta.reshape(shape)
    )


@op("local_response_norm")
def local_response_norm(x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """x [n, C, *D] by the mean square of ``size`` neighbouring channels."""
    return F.local_response_norm(x, size, alpha, beta, k)


def _standardized(x: Tensor, dims: list[int], epsilon: float) -> Tensor:
    variance, mean = torch.var_mean(x, dim=dims, correction=0, keepdim=True)
    return (x - mean) / (variance + epsilon).sqrt()


def _scaled(x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
    x = x if gamma is None else x * gamma
    return x if beta is None else x + beta
