"""The sample that ships: real, distinct, and able to show a swap of channels."""

from __future__ import annotations

import numpy as np
import pytest

from lvexport.converters.contract import Normalisation, TensorSpec
from lvexport.validation import sample


@pytest.mark.parametrize(("part", "count"), [("test", 2000), ("calibration", 512)])
def test_sizes_and_labels(part: str, count: int) -> None:
    pictures = sample.shipped(10_000, part)
    assert pictures.pixels.shape == (count, 28, 28, 3)
    assert set(pictures.labels) == set(range(10))
    assert len(pictures.classes) == 10


def test_no_two_pictures_are_alike() -> None:
    pixels = sample.shipped(2000).pixels.reshape(2000, -1)
    assert len(np.unique(pixels, axis=0)) == 2000


@pytest.mark.parametrize("channels", [(0, 1), (0, 2), (1, 2)])
def test_channels_differ_in_every_picture_or_nearly(channels: tuple[int, int]) -> None:
    pixels = sample.shipped(2000).pixels.astype(int)
    a, b = (pixels[..., c] for c in channels)
    assert (np.abs(a - b).max(axis=(1, 2)) > 2).mean() > 0.95


def test_fit_keeps_the_middle_and_the_aspect() -> None:
    wide = np.zeros((1, 10, 20, 3), np.uint8)
    wide[:, :, 5:15] = 200  # the middle square
    fitted = sample.fit(wide, 32, "bilinear", 1.0)
    assert fitted.shape == (1, 32, 32, 3)
    assert fitted[0, 16, 4:28].min() == 200


def test_fit_crops_to_the_share_asked_for() -> None:
    picture = np.zeros((1, 64, 64, 3), np.uint8)
    picture[:, 8:56, 8:56] = 255
    assert sample.fit(picture, 48, "bilinear", 0.75).min() == 255


def test_normalise_by_hand() -> None:
    picture = np.full((1, 2, 2, 3), (255, 0, 51), np.uint8)
    done = sample.normalise(picture, Normalisation((0.5, 0.0, 0.1), (0.5, 1.0, 0.1)))
    assert done.shape == (1, 3, 2, 2)
    assert done.dtype == np.float32
    np.testing.assert_allclose(done[0, :, 0, 0], [1.0, 0.0, 1.0], atol=1e-6)


def test_normalise_turns_the_colours_round_last() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), np.uint8)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    plain = sample.normalise(picture, Normalisation(mean, std))
    np.testing.assert_array_equal(sample.normalise(picture, Normalisation(mean, std, "BGR")), plain[:, ::-1])


def test_larger_inputs_get_fewer_pictures_but_never_few() -> None:
    sizes = [sample.size_of(imgsz) for imgsz in (32, 64, 128, 256, 512)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 2000
    assert sizes[-1] == 200


def test_synthetic_inputs_follow_their_specs() -> None:
    specs = (TensorSpec("x", (1, 5), "float32"), TensorSpec("mask", (1, 3), "int64"))
    made = sample.synthetic(specs, 7)
    assert made["x"].shape == (7, 5)
    assert made["mask"].dtype == np.int64
    assert np.array_equal(made["x"], sample.synthetic(specs, 7)["x"])


@pytest.mark.parametrize(("part", "count"), [("test", 2000), ("calibration", 512)])
def test_collages_have_one_answer_and_it_is_the_label(part: str, count: int) -> None:
    items, made = sample.shipped(2000, part), sample.collages(2000, part)
    assert made.pixels.shape == (count, 84, 84, 3)
    assert len(made.classes) == 8
    index = {picture.tobytes(): i for i, picture in enumerate(items.pixels)}
    tiles = made.pixels.reshape(count, 3, 28, 3, 28, 3).transpose(0, 1, 3, 2, 4, 5).reshape(count, 9, -1)
    classes = np.array([[items.labels[index[np.ascontiguousarray(t).tobytes()]] for t in row] for row in tiles])
    alike = classes == classes[:, 4:5]
    assert (alike.sum(1) == 2).all()
    around = np.delete(alike, 4, axis=1)
    np.testing.assert_array_equal(around.argmax(1), made.labels)


def test_pictures_suit_the_classes() -> None:
    assert sample.suited(sample.collages(1).classes, 5).pixels.shape == (5, 84, 84, 3)
    assert sample.suited(sample.shipped(1).classes, 5).pixels.shape == (5, 28, 28, 3)
    assert sample.suited((), 5).pixels.shape == (5, 28, 28, 3)
