"""Resizing: grids against the examples in coremltools' docstring, results against torch and against pure lookups."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lvexport.validation.mil.ops.image_resizing import grid

X = np.random.default_rng(7).standard_normal((1, 2, 5, 7)).astype(np.float32)


def interpolated(height, width, align_corners):
    made = torch.nn.functional.interpolate(
        torch.from_numpy(X), size=(height, width), mode="bilinear", align_corners=align_corners
    )
    return made.numpy()


@pytest.mark.parametrize(
    ("mode", "target", "expected"),
    [
        ("UNALIGN_CORNERS", 5, [0, 0.1, 0.5, 0.9, 1]),
        ("STRICT_ALIGN_CORNERS", 5, [0, 0.25, 0.5, 0.75, 1]),
        ("ALIGN_CORNERS", 5, [0, 0.25, 0.5, 0.75, 1]),
        ("DEFAULT", 5, [0, 0.4, 0.8, 1, 1]),
        ("OFFSET_CORNERS", 5, [0.1, 0.3, 0.5, 0.7, 0.9]),
        ("UNALIGN_CORNERS", 6, [0, 0, 1 / 3, 2 / 3, 1, 1]),
        ("STRICT_ALIGN_CORNERS", 6, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ("DEFAULT", 6, [0, 1 / 3, 2 / 3, 1, 1, 1]),
        ("OFFSET_CORNERS", 6, [1 / 12, 0.25, 5 / 12, 7 / 12, 0.75, 11 / 12]),
        ("STRICT_ALIGN_CORNERS", 1, [0]),
        ("ALIGN_CORNERS", 1, [0.5]),
        ("DEFAULT", 1, [0]),
    ],
)
def test_grid_is_the_documented_one(mode, target, expected):
    np.testing.assert_allclose(grid(2, target, mode), expected, atol=1e-12)


CASES = {
    "unalign_up": (
        lambda mb, x: mb.resize_bilinear(
            x=x, target_size_height=8, target_size_width=9, sampling_mode="UNALIGN_CORNERS"
        ),
        interpolated(8, 9, align_corners=False),
    ),
    "unalign_down": (
        lambda mb, x: mb.resize_bilinear(
            x=x, target_size_height=3, target_size_width=4, sampling_mode="UNALIGN_CORNERS"
        ),
        interpolated(3, 4, align_corners=False),
    ),
    "align": (
        lambda mb, x: mb.resize_bilinear(
            x=x, target_size_height=8, target_size_width=4, sampling_mode="STRICT_ALIGN_CORNERS"
        ),
        interpolated(8, 4, align_corners=True),
    ),
    "upsample_aligned": (
        lambda mb, x: mb.upsample_bilinear(x=x, scale_factor_height=2, scale_factor_width=3),
        interpolated(10, 21, align_corners=True),
    ),
    "upsample_fraction": (
        lambda mb, x: mb.upsample_bilinear(
            x=x, scale_factor_height=1.6, scale_factor_width=np.float32(8 / 7), align_corners=False
        ),
        interpolated(8, 8, align_corners=False),
    ),
    "upsample_nearest": (
        lambda mb, x: mb.upsample_nearest_neighbor(x=x, scale_factor_height=2, scale_factor_width=3),
        X.repeat(2, axis=2).repeat(3, axis=3),
    ),
    "resize_nearest": (
        lambda mb, x: mb.resize_nearest_neighbor(x=x, target_size_height=10, target_size_width=14),
        X.repeat(2, axis=2).repeat(2, axis=3),
    ),
    "resize": (
        lambda mb, x: mb.resize(
            x=x, shape=[8, 0], resized_dims=np.uint32(2), interpolation_mode="LINEAR", sampling_mode="UNALIGN_CORNERS"
        ),
        interpolated(8, 7, align_corners=False),
    ),
    "crop": (lambda mb, x: mb.crop(x=x, crop_height=[1, 2], crop_width=[0, 3]), X[:, :, 1:3, :4]),
}


@pytest.fixture(scope="module")
def results(run):
    return run(lambda mb, x: {name: build(mb, x) for name, (build, _) in CASES.items()}, {"x": X})


@pytest.mark.parametrize("name", CASES)
def test_resizing(name, results):
    assert results[name].shape == CASES[name][1].shape
    np.testing.assert_allclose(results[name], CASES[name][1], rtol=1e-5, atol=1e-5)


def test_resize_to_the_nearest_rounds_where_the_older_operations_round_down(run):
    pair = np.array([[[[-6.0], [9.0]]]], dtype=np.float32)

    def build(mb, x):
        nearest = {"interpolation_mode": "NEAREST_NEIGHBOR", "sampling_mode": "DEFAULT"}
        return {
            "resize": mb.resize(x=x, shape=[3, 1], resized_dims=np.uint32(2), **nearest),
            "older": mb.resize_nearest_neighbor(x=x, target_size_height=3, target_size_width=1),
        }

    results = run(build, {"x": pair})
    assert results["resize"].reshape(-1).tolist() == [-6, 9, 9]
    assert results["older"].reshape(-1).tolist() == [-6, -6, 9]
