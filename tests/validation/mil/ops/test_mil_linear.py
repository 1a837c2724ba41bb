"""Matrix products, attention, normalizations and reductions against NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest

RNG = np.random.default_rng(5)
X = RNG.standard_normal((2, 3, 4, 5)).astype(np.float32)
Y = RNG.standard_normal((2, 1, 6, 5)).astype(np.float32)
W = RNG.standard_normal((7, 5)).astype(np.float32)
B = RNG.standard_normal(7).astype(np.float32)
GAMMA, BETA = (RNG.standard_normal(3).astype(np.float32) for _ in range(2))
MEAN, VARIANCE = RNG.standard_normal(3).astype(np.float32), RNG.random(3).astype(np.float32)
ROWS = RNG.standard_normal((3, 5)).astype(np.float32)
N = np.array([[[3, -2, 7], [1, 5, -4]]], dtype=np.int32)
X64 = X.astype(np.float64)


def channels(parameter):
    return parameter.astype(np.float64).reshape(3, 1, 1)


def standardized(axes, epsilon):
    return (X64 - X64.mean(axes, keepdims=True)) / np.sqrt(X64.var(axes, keepdims=True) + epsilon)


def neighbours(size):
    squares = np.pad(X64**2, ((0, 0), (size // 2, (size - 1) // 2), (0, 0), (0, 0)))
    return sum(squares[:, i : i + 3] for i in range(size))


LINEAR = {
    "linear": (
        lambda mb, x, y: mb.linear(x=mb.reshape(x=x, shape=[6, 4, 5]), weight=W, bias=B),
        X.reshape(6, 4, 5) @ W.T + B,
    ),
    "linear_no_bias": (lambda mb, x, y: mb.linear(x=mb.reshape(x=x, shape=[24, 5]), weight=W), X.reshape(24, 5) @ W.T),
    "matmul": (lambda mb, x, y: mb.matmul(x=x, y=y, transpose_y=True), X @ Y.swapaxes(-1, -2)),
    "matmul_x": (lambda mb, x, y: mb.matmul(x=x, y=x, transpose_x=True), X.swapaxes(-1, -2) @ X),
    "einsum": (
        lambda mb, x, y: mb.einsum(values=(x, mb.transpose(x=x, perm=[0, 3, 2, 1])), equation="nchw,nwhu->nchu"),
        np.einsum("nchw,nwhu->nchu", X, X.transpose(0, 3, 2, 1)),
    ),
}
NORMALIZATION = {
    "batch_norm": (
        lambda mb, x, y: mb.batch_norm(x=x, mean=MEAN, variance=VARIANCE, gamma=GAMMA, beta=BETA, epsilon=1e-3),
        channels(GAMMA) * (X64 - channels(MEAN)) / np.sqrt(channels(VARIANCE) + 1e-3) + channels(BETA),
    ),
    "batch_norm_default": (
        lambda mb, x, y: mb.batch_norm(x=x, mean=MEAN, variance=VARIANCE),
        (X64 - channels(MEAN)) / np.sqrt(channels(VARIANCE) + 1e-5),
    ),
    "instance_norm": (
        lambda mb, x, y: mb.instance_norm(x=x, gamma=GAMMA, beta=BETA, epsilon=1e-2),
        channels(GAMMA) * standardized((2, 3), 1e-2) + channels(BETA),
    ),
    "l2_norm": (
        lambda mb, x, y: mb.l2_norm(x=x, epsilon=0.5),
        X64 / np.sqrt((X64**2).sum((1, 2, 3), keepdims=True) + 0.5),
    ),
    "layer_norm": (
        lambda mb, x, y: mb.layer_norm(x=x, axes=[-1], gamma=W[0], beta=W[1], epsilon=1e-3),
        standardized((3,), 1e-3) * W[0] + W[1],
    ),
    "layer_norm_apart": (
        lambda mb, x, y: mb.layer_norm(x=x, axes=[1, 3], gamma=ROWS, beta=ROWS),
        standardized((1, 3), 1e-5) * ROWS.reshape(3, 1, 5) + ROWS.reshape(3, 1, 5),
    ),
    "layer_norm_all": (lambda mb, x, y: mb.layer_norm(x=x, axes=[0, 1, 2, 3]), standardized((0, 1, 2, 3), 1e-5)),
    "local_response_norm": (
        lambda mb, x, y: mb.local_response_norm(x=x, size=3, alpha=0.5, beta=0.6, k=2.0),
        X64 / (2 + 0.5 / 3 * neighbours(3)) ** 0.6,
    ),
}
REDUCTION = {
    "l1": (lambda mb, x, y: mb.reduce_l1_norm(x=x, axes=[1, -1]), np.abs(X64).sum((1, 3))),
    "l2": (lambda mb, x, y: mb.reduce_l2_norm(x=x, axes=[2], keep_dims=True), np.sqrt((X64**2).sum(2, keepdims=True))),
    "sum": (lambda mb, x, y: mb.reduce_sum(x=x, axes=[0]), X64.sum(0)),
    "sum_square": (lambda mb, x, y: mb.reduce_sum_square(x=x, axes=[3]), (X64**2).sum(3)),
    "mean": (lambda mb, x, y: mb.reduce_mean(x=x, axes=[2, 3], keep_dims=False), X64.mean((2, 3))),
    "mean_all": (lambda mb, x, y: mb.reduce_mean(x=x, keep_dims=True), X64.mean(keepdims=True)),
    "prod": (lambda mb, x, y: mb.reduce_prod(x=x, axes=[1, 2]), X64.prod((1, 2))),
    "max": (lambda mb, x, y: mb.reduce_max(x=x, axes=[1, 3]), X64.max((1, 3))),
    "min": (lambda mb, x, y: mb.reduce_min(x=x, axes=[-2], keep_dims=True), X64.min(2, keepdims=True)),
    "log_sum": (lambda mb, x, y: mb.reduce_log_sum(x=mb.square(x=x), axes=[1]), np.log((X64**2).sum(1))),
    "log_sum_exp": (lambda mb, x, y: mb.reduce_log_sum_exp(x=x, axes=[0, 1]), np.log(np.exp(X64).sum((0, 1)))),
    "argmax": (lambda mb, x, y: mb.reduce_argmax(x=x, axis=1), X.argmax(1)),
    "argmin": (lambda mb, x, y: mb.reduce_argmin(x=x, axis=-1, keep_dims=True), X.argmin(-1)[..., None]),
}
CASES = {**LINEAR, **NORMALIZATION, **REDUCTION}


@pytest.fixture(scope="module")
def results(run):
    return run(lambda mb, x, y: {name: build(mb, x, y) for name, (build, _) in CASES.items()}, {"x": X, "y": Y})


@pytest.mark.parametrize("name", CASES)
def test_product_norm_or_reduction(name, results):
    expected = CASES[name][1]
    assert results[name].shape == expected.shape
    np.testing.assert_allclose(results[name], expected, rtol=1e-5, atol=1e-5)


def test_reductions_of_integers_stay_integers(run):
    def build(mb, n):
        return {
            "sum": mb.reduce_sum(x=n, axes=[2]),
            "mean": mb.reduce_mean(x=n, axes=[2]),
            "max": mb.reduce_max(x=n, axes=[1]),
        }

    results = run(build, {"n": N})
    assert {name: value.dtype.name for name, value in results.items()} == dict.fromkeys(results, "int32")
    assert results["sum"].tolist() == [[8, 2]]
    assert results["mean"].tolist() == [[2, 0]]  # 8/3 and 2/3 without their fractions
    assert results["max"].tolist() == [[3, 5, 7]]


@pytest.mark.parametrize("mask", [None, "bool", "float"])
def test_scaled_dot_product_attention(run, mask):
    query, key = X[:, :, :3], X
    truth = np.array([[True, False, True, True], [True, True, True, True], [False, False, False, True]])
    added = RNG.standard_normal((3, 4)).astype(np.float32)

    def build(mb, query, key):
        given = {"bool": {"attn_mask": truth}, "float": {"attn_mask": added}}.get(mask, {})
        return {"out": mb.scaled_dot_product_attention(query=query, key=key, value=key, **given)}

    scores = query.astype(np.float64) @ key.swapaxes(-1, -2) / np.sqrt(5)
    scores = np.where(truth, scores, -np.inf) if mask == "bool" else scores + (added if mask == "float" else 0)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    expected = weights / weights.sum(-1, keepdims=True) @ key
    out = run(build, {"query": query, "key": key}, target="iOS18")["out"]
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


def test_local_response_norm_of_rank_3_takes_the_first_axis_for_the_channels(run):
    """The values that coremltools' own smoke test expects, in a precision that tells them from the second axis's."""
    x = np.array([[[1, -7], [5, -6], [-3, -5]]], np.float32)
    found = run(lambda mb, x: {"out": mb.local_response_norm(x=x, size=2)}, {"x": x})["out"]
    expected = [[0.99996257, -6.98716545], [4.99531746, -5.99191284], [-2.99898791, -4.99531746]]
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)
