"""Activations against their formulas in NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest

X = np.linspace(-9, 9, 2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
ALPHA = np.array([0.1, 0.5, 2.0], dtype=np.float32)
BETA = np.array([1.5, 0.25, 3.0], dtype=np.float32)
A, B = ALPHA.reshape(3, 1, 1), BETA.reshape(3, 1, 1)


def sigmoid(x):
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def softmax(x, axis):
    e = np.exp(x.astype(np.float64))
    return e / e.sum(axis, keepdims=True)


ERF = np.vectorize(math.erf)

CASES = {
    "clamped_relu": (
        lambda mb, x: mb.clamped_relu(x=x, alpha=0.5, beta=3.0),
        np.minimum(3, np.where(X >= 0, X, X / 2)),
    ),
    "elu": (lambda mb, x: mb.elu(x=x, alpha=0.5), np.where(X > 0, X, 0.5 * np.expm1(X))),
    "gelu": (lambda mb, x: mb.gelu(x=x), 0.5 * X * (1 + ERF(X / math.sqrt(2)))),
    "gelu_tanh": (
        lambda mb, x: mb.gelu(x=x, mode="TANH_APPROXIMATION"),
        0.5 * X * (1 + np.tanh(math.sqrt(2 / math.pi) * (X + 0.044715 * X**3))),
    ),
    "gelu_sigmoid": (lambda mb, x: mb.gelu(x=x, mode="SIGMOID_APPROXIMATION"), X * sigmoid(1.702 * X)),
    "leaky_relu": (lambda mb, x: mb.leaky_relu(x=x, alpha=0.25), np.where(X >= 0, X, X / 4)),
    "linear_activation": (lambda mb, x: mb.linear_activation(x=x, alpha=3.0, beta=-2.0), 3 * X - 2),
    "prelu": (lambda mb, x: mb.prelu(x=x, alpha=ALPHA), np.where(X > 0, X, A * X)),
    "relu": (lambda mb, x: mb.relu(x=x), np.maximum(X, 0)),
    "relu6": (lambda mb, x: mb.relu6(x=x), np.clip(X, 0, 6)),
    "scaled_tanh": (lambda mb, x: mb.scaled_tanh(x=x, alpha=2.0, beta=0.5), 2 * np.tanh(X / 2)),
    "sigmoid": (lambda mb, x: mb.sigmoid(x=x), sigmoid(X)),
    "sigmoid_hard": (lambda mb, x: mb.sigmoid_hard(x=x, alpha=0.2, beta=0.5), np.clip(X / 5 + 0.5, 0, 1)),
    "silu": (lambda mb, x: mb.silu(x=x), X * sigmoid(X)),
    "softplus": (lambda mb, x: mb.softplus(x=x), np.log1p(np.exp(X))),
    "softplus_parametric": (
        lambda mb, x: mb.softplus_parametric(x=x, alpha=ALPHA, beta=BETA),
        A * np.log1p(np.exp(B * X.astype(np.float64))),
    ),
    "softmax": (lambda mb, x: mb.softmax(x=x), softmax(X, -1)),
    "softmax_axis": (lambda mb, x: mb.softmax(x=x, axis=1), softmax(X, 1)),
    "softsign": (lambda mb, x: mb.softsign(x=x), X / (1 + np.abs(X))),
    "thresholded_relu": (lambda mb, x: mb.thresholded_relu(x=x, alpha=1.0), np.where(X >= 1, X, 0)),
}


@pytest.fixture(scope="module")
def results(run):
    return run(lambda mb, x: {name: build(mb, x) for name, (build, _) in CASES.items()}, {"x": X})


@pytest.mark.parametrize("name", CASES)
def test_activation(name, results):
    np.testing.assert_allclose(results[name], CASES[name][1], rtol=2e-6, atol=2e-6)
