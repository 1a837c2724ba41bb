"""Activations (``iOS15/activation.py``; iOS 17 only lets parameters have another precision than the input)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lvexport.validation.mil.call import Call
from lvexport.validation.mil.table import op


@op("clamped_relu")
def clamped_relu(x: Tensor, alpha: float, beta: float) -> Tensor:
    return torch.where(x >= 0, x, alpha * x).clamp(max=beta)


@op("elu")
def elu(x: Tensor, alpha: float) -> Tensor:
    return F.elu(x, alpha)


@op("gelu")
def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    if mode == "EXACT":
        return F.gelu(x)
    if mode == "TANH_APPROXIMATION":
        return F.gelu(x, approximate="tanh")
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    raise ValueError(f"gelu has no mode {mode!r}")


@op("leaky_relu")
def leaky_relu(x: Tensor, alpha: float) -> Tensor:
    return F.leaky_relu(x, alpha)


@op("linear_activation")
def linear_activation(x: Tensor, alpha: float, beta: float) -> Tensor:
    return x * alpha + beta


@op("prelu")
def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    """x [B, C, …], alpha [C]."""
    return torch.where(x > 0, x, _by_channel(alpha, x) * x)


@op("relu", exact=True)
def relu(x: Tensor) -> Tensor:
    return torch.relu(x)


@op("relu6", exact=True)
def relu6(x: Tensor) -> Tensor:
    return F.relu6(x)


@op("scaled_tanh")
def scaled_tanh(x: Tensor, alpha: float, beta: float) -> Tensor:
    return alpha * torch.tanh(beta * x)


@op("sigmoid")
def sigmoid(x: Tensor) -> Tensor:
    return torch.sigmoid(x)


@op("sigmoid_hard")
def sigmoid_hard(x: Tensor, alpha: float, beta: float) -> Tensor:
    return (alpha * x + beta).clamp(0, 1)


@op("silu")
def silu(x: Tensor) -> Tensor:
    return F.silu(x)


@op("softplus")
def softplus(x: Tensor) -> Tensor:
    return _softplus(x)


@op("softplus_parametric")
def softplus_parametric(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """x [B, C, …], alpha [C], beta [C]."""
    return _by_channel(alpha, x) * _softplus(_by_channel(beta, x) * x)


@op("softmax")
def softmax(x: Tensor, call: Call, axis: int = -1) -> Tensor:
    return call.sums.softmax(x, axis)


@op("softsign")
def softsign(x: Tensor) -> Tensor:
    return F.softsign(x)


@op("thresholded_relu", exact=True)
def thresholded_relu(x: Tensor, alpha: float) -> Tensor:
    return torch.where(x >= alpha, x, torch.zeros_like(x))


def _softplus(x: Tensor) -> Tensor:
    # log(e^0 + e^x): does not overflow, and unlike F.softplus is not cut off for large x.
    return torch.logaddexp(x, torch.zeros_like(x))


def _by_channel(parameter: Tensor, x: Tensor) -> Tensor:
    return parameter.reshape(-1, *([1] * (x.ndim - 2)))
