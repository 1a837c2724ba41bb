"""Free sampling against torch's grid_sample, patches against a sum over pixels, suppression against a plain loop."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

RNG = np.random.default_rng(9)
X = RNG.standard_normal((2, 3, 5, 7)).astype(np.float32)
PLACES = (RNG.random((2, 4, 6, 2)) * 4 - 2).astype(np.float32)  # from -2 to 2: half of them beyond the image
TORCH = {"constant": "zeros", "border": "border", "reflection": "reflection", "symmetric": "reflection"}


@pytest.mark.parametrize("padding", TORCH)
@pytest.mark.parametrize("sampling", ["bilinear", "nearest"])
def test_resample_as_torch_does(run, padding, sampling):
    align = padding != "symmetric"  # torch reflects at the pixels' centers or edges, by this
    parameters = {"sampling_mode": sampling, "padding_mode": padding, "padding_value": np.float32(0)}
    parameters |= {"coordinates_mode": "normalized_minus_one_to_one", "align_corners": align}
    found = run(lambda mb, x, c: {"out": mb.resample(x=x, coordinates=c, **parameters)}, {"x": X, "c": PLACES})["out"]
    grid = torch.from_numpy(PLACES)
    expected = F.grid_sample(torch.from_numpy(X), grid, sampling, TORCH[padding], align_corners=align)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_resample_takes_other_coordinates_and_a_padding_value(run):
    unnormalized = ((PLACES + 1) / 2 * [6, 4]).astype(np.float32)
    given = {"sampling_mode": "bilinear", "padding_mode": "constant", "padding_value": np.float32(5)}

    def build(mb, x, pixels, shares, centered):
        def sample(coordinates, mode):
            return mb.resample(x=x, coordinates=coordinates, coordinates_mode=mode, align_corners=True, **given)

        return {
            "by_pixels": sample(pixels, "unnormalized"),
            "by_shares": sample(shares, "normalized_zero_to_one"),
            "by_center": sample(centered, "normalized_minus_one_to_one"),
        }

    found = run(build, {"x": X, "pixels": unnormalized, "shares": (PLACES + 1) / 2, "centered": PLACES})
    shifted = F.grid_sample(torch.from_numpy(X - 5), torch.from_numpy(PLACES), align_corners=True).numpy() + 5
    for values in found.values():
        np.testing.assert_allclose(values, shifted, rtol=1e-4, atol=1e-4)


def test_affine_as_torch_does(run):
    matrix = np.array([[0.8, 0.3, 0.1, -0.2, 1.1, 0.4]], np.float32)
    given = {"output_height": 4, "output_width": 3, "sampling_mode": "bilinear", "padding_mode": "constant"}
    given |= {"padding_value": np.float32(0), "coordinates_mode": "normalized_minus_one_to_one", "align_corners": True}
    found = run(lambda mb, x: {"out": mb.affine(x=x, transform_matrix=matrix, **given)}, {"x": X})["out"]
    grid = F.affine_grid(torch.from_numpy(matrix).reshape(1, 2, 3).expand(2, 2, 3), [2, 3, 4, 3], align_corners=True)
    expected = F.grid_sample(torch.from_numpy(X), grid, align_corners=True).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def value_at(image, row, column, outside):
    """Bilinear, pixel by pixel; ``outside`` beyond the outermost centers."""
    height, width = image.shape
    if not (0 <= row <= height - 1 and 0 <= column <= width - 1):
        return outside
    pixels = itertools.product(range(height), range(width))
    return sum(image[i, j] * max(0, 1 - abs(row - i)) * max(0, 1 - abs(column - j)) for i, j in pixels)


# Sampling places of the interval from 1 to 4, by hand from the formulas of iOS15.resize_bilinear.
INTERVALS = {
    "STRICT_ALIGN_CORNERS": (1, 2.5, 4),
    "ALIGN_CORNERS": (1, 2.5, 4),
    "DEFAULT": (1, 1 + 4 / 3, 1 + 8 / 3),
    "OFFSET_CORNERS": (1.5, 2.5, 3.5),
    "UNALIGN_CORNERS": (1 + 1 / 6, 2.5, 4 - 1 / 6),
}
BOXES = {
    "CORNERS_HEIGHT_FIRST": (1, 2, 4, 5),
    "CORNERS_WIDTH_FIRST": (2, 1, 5, 4),
    "CENTER_SIZE_HEIGHT_FIRST": (2.5, 3.5, 3, 3),
    "CENTER_SIZE_WIDTH_FIRST": (3.5, 2.5, 3, 3),
}


@pytest.mark.parametrize("mode", INTERVALS)
@pytest.mark.parametrize("order", BOXES)
def test_crop_resize_reads_boxes_and_samples_them(run, mode, order):
    box = np.array([BOXES[order]], np.float32)
    given = {"target_height": 3, "target_width": 3, "sampling_mode": mode, "box_coordinate_mode": order}

    def build(mb, x):
        return {"out": mb.crop_resize(x=x, boxes=box, box_indices=np.array([1], np.int32), **given)}

    expected = [[value_at(X[1, 0], row, column + 1, 0) for column in INTERVALS[mode]] for row in INTERVALS[mode]]
    np.testing.assert_allclose(run(build, {"x": X})["out"][0, 0], expected, rtol=1e-4, atol=1e-5)


def test_crop_resize_pads_scales_and_takes_every_image_before_ios17(run):
    roi = np.array([[0, 0, 2, 1], [0.5, 0.5, 1, 1]], np.float32).reshape(2, 1, 4, 1, 1)
    one = np.array([[0, 0, 0, 4, 6]], np.float32).reshape(1, 1, 5, 1, 1)
    given = {"target_height": 2, "target_width": 2, "sampling_mode": "STRICT_ALIGN_CORNERS"}

    def build(mb, x, first):
        every = mb.crop_resize(x=x, roi=roi, normalized_coordinates=True, pad_value=np.float32(9), **given)
        return {"every": every, "one": mb.crop_resize(x=first, roi=one, spatial_scale=np.float32(0.5), **given)}

    found = run(build, {"x": X, "first": X[:1]}, "iOS16")
    assert found["every"].shape == (2, 2, 3, 2, 2)
    np.testing.assert_allclose(found["every"][0, :, :, 0], X[:, :, 0, ::6], rtol=1e-5)
    assert (found["every"][0, :, :, 1] == 9).all()  # twice the height: below the image
    np.testing.assert_allclose(found["every"][1], X[:, :, 2::2, 3::3], rtol=1e-5)
    np.testing.assert_allclose(found["one"][0, 0], X[0, :, 0:3:2, 0:4:3], rtol=1e-5)


def overlap(a, b):
    low, high = np.maximum(a[:2] - a[2:] / 2, b[:2] - b[2:] / 2), np.minimum(a[:2] + a[2:] / 2, b[:2] + b[2:] / 2)
    shared = np.prod(np.maximum(high - low, 0))
    return shared / (np.prod(a[2:]) + np.prod(b[2:]) - shared)


def suppressed(boxes, scores, iou, least, limit, per_class):
    best, kind = scores.max(1), scores.argmax(1)
    kept: list[int] = []
    for place in np.argsort(-best):
        rivals = [other for other in kept if not per_class or kind[other] == kind[place]]
        if best[place] > least and all(overlap(boxes[place], boxes[other]) <= iou for other in rivals):
            kept.append(int(place))
    return kept[:limit]


@pytest.mark.parametrize("per_class", [True, False])
def test_suppression(run, per_class):
    boxes = np.concatenate([RNG.random((1, 12, 2)) * 4, 1 + RNG.random((1, 12, 2)) * 3], 2).astype(np.float32)
    scores = RNG.standard_normal((1, 12, 3)).astype(np.float32)
    given = {"iou_threshold": np.float32(0.2), "max_boxes": 10, "per_class_suppression": per_class}

    def old(mb, b, s):
        outs = mb.non_maximum_suppression(boxes=b, scores=s, score_threshold=np.float32(0.3), **given)
        return dict(zip(("boxes", "scores", "index", "count"), outs, strict=True))

    def new(mb, b, s):
        turned = {"boxes": mb.transpose(x=b, perm=[0, 2, 1]), "scores": mb.transpose(x=s, perm=[0, 2, 1])}
        return dict(zip(("boxes", "scores", "index"), mb.non_maximum_suppression(**turned, **given), strict=True))

    kept = suppressed(boxes[0], scores[0], 0.2, 0.3, 10, per_class)
    assert 1 < len(kept) < 10
    found = run(old, {"b": boxes, "s": scores}, "iOS16")
    assert found["index"][0].tolist() == kept + [-1] * (10 - len(kept))
    assert found["count"].tolist() == [len(kept)]
    np.testing.assert_array_equal(found["boxes"][0, : len(kept)], boxes[0, kept])
    assert not found["boxes"][0, len(kept) :].any()
    found = run(new, {"b": boxes, "s": scores}, "iOS17")
    kept = suppressed(boxes[0], scores[0], 0.2, -np.inf, 10, per_class)
    assert found["index"][0, : len(kept)].tolist() == kept
    np.testing.assert_array_equal(found["scores"][0][:, : len(kept)], scores[0, kept].T)


def test_suppression_returns_the_best_box_where_no_score_passes(run):
    boxes, scores = np.ones((1, 3, 4), np.float32), np.array([[[-3], [-1], [-2]]], np.float32)

    def build(mb, b, s):
        outs = mb.non_maximum_suppression(
            boxes=b, scores=s, iou_threshold=np.float32(0.5), score_threshold=np.float32(0), max_boxes=2
        )
        return {"index": outs[2], "count": outs[3]}

    found = run(build, {"b": boxes, "s": scores}, "iOS16")
    assert found["index"].tolist() == [[1, -1]]
    assert found["count"].tolist() == [1]
