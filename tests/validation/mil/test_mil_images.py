"""Image inputs and classifiers, as an app developer has them."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from PIL import Image

from lvexport.validation import mil

PIXELS = np.random.default_rng(1).integers(0, 256, (4, 6, 3)).astype(np.uint8)  # 6 wide, 4 high, RGB
LABELS = [f"class {i}" for i in range(12)]


@pytest.fixture(scope="module")
def image_model(ct, save):
    """image_model(layout, **ImageType options): a model that returns the tensor that its program receives."""

    @functools.cache
    def make(layout, **options):
        channels = 1 if layout.startswith("GRAY") else 3
        image = ct.ImageType(
            name="x", shape=(1, channels, 4, 6), color_layout=getattr(ct.colorlayout, layout), **options
        )
        half = layout == "GRAYSCALE_FLOAT16"
        example = np.zeros((1, channels, 4, 6), np.float16 if half else np.float32)
        return mil.load(save(lambda mb, x: {"out": mb.identity(x=x)}, {"x": example}, inputs=[image]))

    return make


@pytest.mark.parametrize("layout", ["RGB", "BGR"])
def test_color_arrives_in_the_declared_order(image_model, layout):
    model = image_model(layout)
    feature = model.inputs[0]
    assert (feature.kind, feature.layout, feature.size) == ("image", layout, (6, 4))
    planes = PIXELS.transpose(2, 0, 1)[None].astype(np.float32)
    expected = planes if layout == "RGB" else planes[:, ::-1]
    for picture in (PIXELS, Image.fromarray(PIXELS)):
        np.testing.assert_array_equal(model.predict({"x": picture})["out"], expected)


def test_gray(image_model):
    model = image_model("GRAYSCALE")
    gray = PIXELS[:, :, 0]
    for picture in (gray, Image.fromarray(gray)):
        np.testing.assert_array_equal(model.predict({"x": picture})["out"][0, 0], gray)


def test_gray_in_half_precision(image_model):
    model = image_model("GRAYSCALE_FLOAT16")
    gray = PIXELS[:, :, 0] / np.float32(255)
    for picture in (gray, Image.fromarray(gray)):
        np.testing.assert_array_equal(model.predict({"x": picture})["out"][0, 0], gray.astype(np.float16))


def test_scale_and_bias_are_part_of_the_program(image_model):
    model = image_model("RGB", scale=1 / 128, bias=(-1.0, 0.5, 0.25))
    expected = PIXELS.transpose(2, 0, 1) / 128 + np.array([-1, 0.5, 0.25]).reshape(3, 1, 1)
    np.testing.assert_allclose(model.predict({"x": PIXELS})["out"][0], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (PIXELS[:3], "6×3 pixels; the model takes 6×4"),
        (PIXELS[:, :, 0], r"uint8 \(height, width, 3\), not uint8 \(4, 6\)"),
        (PIXELS / 255, "not float64"),
        (Image.fromarray(PIXELS).convert("RGBA"), "mode 'RGBA'; a RGB input takes 'RGB'"),
        (None, "is a RGB image"),
    ],
)
def test_other_pictures_are_refused(image_model, picture, message):
    with pytest.raises(mil.BadInput, match=message):
        image_model("RGB").predict({"x": picture})


@pytest.mark.parametrize("labels", [LABELS, list(range(100, 112))], ids=["text", "numbers"])
def test_classifier(ct, save, labels):
    x = np.random.default_rng(2).standard_normal((1, 12)).astype(np.float32)
    config = ct.ClassifierConfig(labels, predicted_feature_name="label")
    path = save(lambda mb, x: {"odds": mb.softmax(x=x)}, {"x": x}, classifier_config=config)
    model = mil.load(path)
    kinds = {feature.kind: feature for feature in model.outputs}
    assert kinds["label"].dtype == ("str" if labels is LABELS else "int64")
    results = model.predict({"x": x})
    odds = np.exp(x[0]) / np.exp(x[0]).sum()
    assert results["label"] == labels[int(x.argmax())]
    probabilities = results[kinds["probabilities"].name]
    assert list(probabilities) == labels
    assert all(type(value) is float for value in probabilities.values())
    np.testing.assert_allclose(list(probabilities.values()), odds, rtol=1e-5)
