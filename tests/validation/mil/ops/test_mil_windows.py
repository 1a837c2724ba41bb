"""Convolution and pooling against loops over windows, written out in NumPy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

RNG = np.random.default_rng(3)
X = RNG.standard_normal((2, 4, 7, 6)).astype(np.float32)
LINE = RNG.standard_normal((1, 2, 9)).astype(np.float32)
CUBE = RNG.standard_normal((1, 2, 4, 5, 3)).astype(np.float32)
W = RNG.standard_normal((6, 4, 3, 2)).astype(np.float32)
GROUPED = RNG.standard_normal((8, 1, 3, 3)).astype(np.float32)
BIAS = RNG.standard_normal(6).astype(np.float32)
DECONV = RNG.standard_normal((4, 3, 3, 3)).astype(np.float32)
DECONV_BIAS = RNG.standard_normal(3).astype(np.float32)


def windows(x, kernel, strides, dilations=None, value=0.0, pads=None):
    """All windows of x [n, c, *d], padded by ``pads``: [n, c, *counts, *kernel] in float64."""
    rank = x.ndim - 2
    dilations = dilations or (1,) * rank
    pads = pads or ((0, 0),) * rank
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), *pads), constant_values=value)
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    counts = [(size - e) // s + 1 for size, e, s in zip(x.shape[2:], extents, strides, strict=True)]
    out = np.empty((*x.shape[:2], *counts, *kernel))
    for place in itertools.product(*map(range, counts)):
        where = tuple(slice(p * s, p * s + e, d) for p, s, e, d in zip(place, strides, extents, dilations, strict=True))
        out[(slice(None), slice(None), *place)] = x[(slice(None), slice(None), *where)]
    return out


def convolve(x, weight, strides=None, dilations=None, pads=None, groups=1, bias=None):
    rank = x.ndim - 2
    taken = windows(x, weight.shape[2:], strides or (1,) * rank, dilations, pads=pads)
    parts = np.split(taken, groups, axis=1), np.split(weight.astype(np.float64), groups, axis=0)
    axes = tuple(range(2 + rank, 2 + 2 * rank))
    made = [np.tensordot(t, w, axes=((1, *axes), (1, *range(2, 2 + rank)))) for t, w in zip(*parts, strict=True)]
    out = np.moveaxis(np.concatenate(made, axis=-1), -1, 1)
    return out if bias is None else out + bias.reshape(-1, *([1] * rank))


def same(sizes, kernel, strides, dilations=None, lower=False):
    pads = []
    for size, k, s, d in zip(sizes, kernel, strides, dilations or (1,) * len(sizes), strict=True):
        total = max(0, (math.ceil(size / s) - 1) * s + (k - 1) * d + 1 - size)
        pads.append((total - total // 2, total // 2) if lower else (total // 2, total - total // 2))
    return tuple(pads)


def average(x, kernel, strides, pads, exclude):
    ones = np.ones_like(x)
    total = windows(x, kernel, strides, pads=pads).sum(axis=tuple(range(-len(kernel), 0)))
    count = windows(ones, kernel, strides, pads=pads).sum(axis=tuple(range(-len(kernel), 0)))
    return total / (count if exclude else math.prod(kernel))


def largest(x, kernel, strides, pads):
    return windows(x, kernel, strides, value=-np.inf, pads=pads).max(axis=tuple(range(-len(kernel), 0)))


CONV = {
    "valid": (lambda mb, v: mb.conv(x=v["x"], weight=W, bias=BIAS), convolve(X, W, bias=BIAS)),
    "no_bias": (lambda mb, v: mb.conv(x=v["x"], weight=W, pad_type="valid"), convolve(X, W)),
    "same": (
        lambda mb, v: mb.conv(x=v["x"], weight=W, pad_type="same", strides=[2, 2]),
        convolve(X, W, (2, 2), pads=same((7, 6), (3, 2), (2, 2))),
    ),
    "same_lower": (
        lambda mb, v: mb.conv(x=v["x"], weight=W, pad_type="same_lower"),
        convolve(X, W, pads=same((7, 6), (3, 2), (1, 1), lower=True)),
    ),
    "custom": (
        lambda mb, v: mb.conv(x=v["x"], weight=W, pad_type="custom", pad=[1, 0, 2, 3], strides=[2, 1]),
        convolve(X, W, (2, 1), pads=((1, 0), (2, 3))),
    ),
    "custom_symmetric": (
        lambda mb, v: mb.conv(x=v["x"], weight=W, pad_type="custom", pad=[1, 1, 2, 2]),
        convolve(X, W, pads=((1, 1), (2, 2))),
    ),
    "dilated": (
        lambda mb, v: mb.conv(x=v["x"], weight=W, dilations=[2, 3]),
        convolve(X, W, dilations=(2, 3)),
    ),
    "depthwise": (lambda mb, v: mb.conv(x=v["x"], weight=GROUPED, groups=4), convolve(X, GROUPED, groups=4)),
    "line": (
        lambda mb, v: mb.conv(x=v["line"], weight=W[:, :2, :, 0], pad_type="same", strides=[2]),
        convolve(LINE, W[:, :2, :, 0], (2,), pads=same((9,), (3,), (2,))),
    ),
    "cube": (
        lambda mb, v: mb.conv(x=v["cube"], weight=W.reshape(6, 2, 2, 3, 2), strides=[1, 2, 1]),
        convolve(CUBE, W.reshape(6, 2, 2, 3, 2), (1, 2, 1)),
    ),
}

POOL = {
    "avg_include": (
        lambda mb, v: mb.avg_pool(x=v["x"], kernel_sizes=[3, 2], strides=[2, 1], pad_type="custom", pad=[1, 2, 1, 0]),
        average(X, (3, 2), (2, 1), ((1, 2), (1, 0)), exclude=False),
    ),
    "avg_exclude": (
        lambda mb, v: mb.avg_pool(
            x=v["x"], kernel_sizes=[3, 3], pad_type="same", strides=[2, 2], exclude_padding_from_average=True
        ),
        average(X, (3, 3), (2, 2), same((7, 6), (3, 3), (2, 2)), exclude=True),
    ),
    "avg_valid": (
        lambda mb, v: mb.avg_pool(x=v["x"], kernel_sizes=[2, 3], pad_type="valid"),
        average(X, (2, 3), (1, 1), None, exclude=False),
    ),
    "avg_ceil": (
        lambda mb, v: mb.avg_pool(
            x=v["x"], kernel_sizes=[3, 3], strides=[3, 2], pad_type="custom", pad=[1, 1, 0, 0], ceil_mode=True
        ),
        torch.nn.functional.avg_pool2d(torch.from_numpy(X), 3, (3, 2), (1, 0), ceil_mode=True).numpy(),
    ),
    "max_same": (
        lambda mb, v: mb.max_pool(x=v["x"], kernel_sizes=[3, 2], strides=[2, 2], pad_type="same"),
        largest(X, (3, 2), (2, 2), same((7, 6), (3, 2), (2, 2))),
    ),
    "max_same_lower": (
        lambda mb, v: mb.max_pool(x=v["x"], kernel_sizes=[2, 2], pad_type="same_lower"),
        largest(X, (2, 2), (1, 1), ((1, 0), (1, 0))),
    ),
    "max_ceil": (
        lambda mb, v: mb.max_pool(x=v["x"], kernel_sizes=[2, 4], strides=[2, 3], pad_type="valid", ceil_mode=True),
        torch.nn.functional.max_pool2d(torch.from_numpy(X), (2, 4), (2, 3), ceil_mode=True).numpy(),
    ),
    "max_line": (
        lambda mb, v: mb.max_pool(x=v["line"], kernel_sizes=[4], strides=[3], pad_type="custom", pad=[2, 1]),
        largest(LINE, (4,), (3,), ((2, 1),)),
    ),
    "avg_cube": (
        lambda mb, v: mb.avg_pool(x=v["cube"], kernel_sizes=[2, 2, 2], pad_type="valid", strides=[2, 1, 1]),
        average(CUBE, (2, 2, 2), (2, 1, 1), None, exclude=False),
    ),
    "l2": (
        lambda mb, v: mb.l2_pool(x=v["x"], kernel_sizes=[3, 2], strides=[2, 2], pad_type="same"),
        np.sqrt(windows(X**2, (3, 2), (2, 2), pads=same((7, 6), (3, 2), (2, 2))).sum(axis=(-2, -1))),
    ),
}
CASES = {f"{kind}_{name}": case for kind, cases in (("conv", CONV), ("pool", POOL)) for name, case in cases.items()}


@pytest.fixture(scope="module")
def results(run):
    return run(
        lambda mb, **values: {name: build(mb, values) for name, (build, _) in CASES.items()},
        {"x": X, "line": LINE, "cube": CUBE},
    )


@pytest.mark.parametrize("name", CASES)
def test_windows(name, results):
    assert results[name].shape == CASES[name][1].shape
    np.testing.assert_allclose(results[name], CASES[name][1], rtol=1e-4, atol=1e-5)


def deconvolve(x, weight, strides, dilations=(1, 1)):
    """Every input element adds the kernel, scaled, to the output: the definition of a transposed convolution."""
    n, _, h, w = x.shape
    kh, kw = weight.shape[2:]
    out = np.zeros(
        (
            n,
            weight.shape[1],
            (h - 1) * strides[0] + (kh - 1) * dilations[0] + 1,
            (w - 1) * strides[1] + (kw - 1) * dilations[1] + 1,
        )
    )
    for i, j, a, b in itertools.product(range(h), range(w), range(kh), range(kw)):
        out[:, :, i * strides[0] + a * dilations[0], j * strides[1] + b * dilations[1]] += (
            x[:, :, i, j].astype(np.float64) @ weight[:, :, a, b]
        )
    return out


FULL = deconvolve(X, DECONV, (2, 2))  # 15 × 13
TRANSPOSED = {
    "valid": ({"pad_type": "valid"}, FULL),
    "custom": ({"pad_type": "custom", "pad": [1, 2, 0, 3]}, FULL[:, :, 1:-2, :-3]),
    "same": ({"pad_type": "same"}, FULL[:, :, :14, :12]),
    "output_shape": (
        {"pad_type": "custom", "pad": [1, 1, 1, 1], "output_shape": [2, 3, 14, 12]},
        FULL[:, :, 1:, 1:],
    ),
    "beyond_the_windows": (
        {"pad_type": "valid", "output_shape": [2, 3, 16, 13]},
        np.pad(FULL, ((0, 0), (0, 0), (0, 1), (0, 0))),
    ),
}


@pytest.fixture(scope="module")
def transposed(run):
    def build(mb, x):
        results = {
            name: mb.conv_transpose(x=x, weight=DECONV, bias=DECONV_BIAS, strides=[2, 2], **options)
            for name, (options, _) in TRANSPOSED.items()
        }
        results["dilated"] = mb.conv_transpose(x=x, weight=DECONV, dilations=[1, 2], strides=[1, 3])
        results["grouped"] = mb.conv_transpose(x=x, weight=DECONV, groups=2)
        return results

    return run(build, {"x": X})


@pytest.mark.parametrize("name", TRANSPOSED)
def test_conv_transpose(name, transposed):
    expected = TRANSPOSED[name][1] + DECONV_BIAS.reshape(-1, 1, 1)
    assert transposed[name].shape == expected.shape
    np.testing.assert_allclose(transposed[name], expected, rtol=1e-4, atol=1e-5)


def test_conv_transpose_dilated_and_grouped(transposed):
    np.testing.assert_allclose(transposed["dilated"], deconvolve(X, DECONV, (1, 3), (1, 2)), rtol=1e-4, atol=1e-5)
    halves = [deconvolve(X[:, part], DECONV[part], (1, 1)) for part in (slice(0, 2), slice(2, 4))]
    np.testing.assert_allclose(transposed["grouped"], np.concatenate(halves, axis=1), rtol=1e-4, atol=1e-5)
