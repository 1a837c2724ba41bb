"""What a package can say of its inputs and outputs, beyond arrays of one size."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from lvexport.validation import mil
from lvexport.validation.runtimes.coreml import RUNTIME

X = np.array([[1.0, -2.0, 0.5]], dtype=np.float32)
RAMP = np.random.default_rng(3).uniform(-20, 280, (1, 3, 4, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def functions(ct, save, tmp_path_factory):
    """Two models as two functions of one package, by coremltools' own way of doing that."""
    double = save(lambda mb, x: {"out": mb.mul(x=x, y=np.float32(2))}, {"x": X}, "iOS18")
    weights = np.arange(60, dtype=np.float32).reshape(20, 3)
    project = save(lambda mb, x: {"wide": mb.linear(x=x, weight=weights)}, {"x": X}, "iOS18")
    several = ct.utils.MultiFunctionDescriptor()
    several.add_function(str(double), src_function_name="main", target_function_name="double")
    several.add_function(str(project), src_function_name="main", target_function_name="project")
    several.default_function_name = "project"
    path = tmp_path_factory.mktemp("functions") / "several.mlpackage"
    ct.utils.save_multifunction(several, str(path))
    return path, weights


def test_several_functions(functions):
    path, weights = functions
    np.testing.assert_array_equal(mil.load(path, function_name="double").predict({"x": X})["out"], 2 * X)
    for model in (mil.load(path), mil.load(path, "project")):
        np.testing.assert_allclose(model.predict({"x": X})["wide"], X @ weights.T, rtol=1e-6)


def test_a_function_that_is_not_there(functions, save):
    with pytest.raises(mil.BadInput, match="no function 'main'; it has double, project"):
        mil.load(functions[0], "main")
    single = save(lambda mb, x: {"out": mb.relu(x=x)}, {"x": X})
    assert mil.load(single, "main").predict({"x": X})["out"].shape == (1, 3)
    with pytest.raises(mil.BadInput, match="no function 'other'; it has main"):
        mil.load(single, "other")


@pytest.mark.parametrize("layout", ["RGB", "BGR", "GRAYSCALE", "GRAYSCALE_FLOAT16"])
def test_image_output(ct, save, layout):
    gray = layout.startswith("GRAY")
    x = RAMP[:, :1].astype(np.float16 if layout == "GRAYSCALE_FLOAT16" else np.float32) if gray else RAMP
    image = ct.ImageType(name="out", color_layout=getattr(ct.colorlayout, layout))
    model = mil.load(save(lambda mb, x: {"out": mb.identity(x=x)}, {"x": x}, outputs=[image]))
    assert (model.outputs[0].kind, model.outputs[0].size) == ("image", (6, 4))
    picture = model.predict({"x": x})["out"]
    assert isinstance(picture, Image.Image)
    assert picture.size == (6, 4)
    whole = np.rint(RAMP).clip(0, 255)[0]
    expected = {
        "RGB": ("RGB", whole.transpose(1, 2, 0)),
        "BGR": ("RGB", whole[::-1].transpose(1, 2, 0)),
        "GRAYSCALE": ("L", whole[0]),
        "GRAYSCALE_FLOAT16": ("F", x[0, 0].astype(np.float32)),
    }[layout]
    assert picture.mode == expected[0]
    np.testing.assert_array_equal(np.asarray(picture), expected[1])
    np.testing.assert_array_equal(model.predict({"x": x}, outputs=["out"])["out"], x)  # a tap is an array


def test_an_image_goes_through_unchanged(ct, save):
    pixels = np.random.default_rng(1).integers(0, 256, (4, 6, 3)).astype(np.uint8)
    image = [ct.ImageType(name="x", shape=(1, 3, 4, 6), color_layout=ct.colorlayout.BGR)]
    out = [ct.ImageType(name="out", color_layout=ct.colorlayout.BGR)]
    model = mil.load(save(lambda mb, x: {"out": mb.identity(x=x)}, {"x": RAMP}, inputs=image, outputs=out))
    np.testing.assert_array_equal(np.asarray(model.predict({"x": Image.fromarray(pixels)})["out"]), pixels)


def test_gray_with_scale_and_bias(ct, save):
    gray = np.random.default_rng(1).integers(0, 256, (4, 6)).astype(np.uint8)
    image = ct.ImageType(name="x", shape=(1, 1, 4, 6), color_layout=ct.colorlayout.GRAYSCALE, scale=1 / 64, bias=[-2.0])
    path = save(lambda mb, x: {"out": mb.identity(x=x)}, {"x": RAMP[:, :1]}, inputs=[image])
    out = mil.load(path).predict({"x": Image.fromarray(gray)})["out"]
    np.testing.assert_allclose(out[0, 0], gray / 64 - 2, rtol=1e-6)


def test_an_optional_input(ct, save):
    """coremltools' own case (``TestMILDefaultValues`` in its ``backend/mil/test_load.py``)."""
    inputs = [
        ct.TensorType(name="x", shape=[3], default_value=np.array([1.0, 1.0, 1.0], np.float32)),
        ct.TensorType(name="y", shape=[3]),
    ]
    example = {"x": X[0], "y": X[0]}
    model = mil.load(save(lambda mb, x, y: {"out": mb.add(x=x, y=y)}, example, inputs=inputs))
    assert [feature.default for feature in model.inputs] == [1.0, None]
    np.testing.assert_array_equal(model.predict({"x": X[0], "y": X[0]})["out"], 2 * X[0])
    np.testing.assert_array_equal(model.predict({"y": X[0]})["out"], 1 + X[0])
    with pytest.raises(mil.BadInput, match="takes the inputs x, y; given were x"):
        model.predict({"x": X[0]})


def test_numbers_are_converted_to_the_declared_type(save):
    def build(mb, single, half, whole):
        return {
            "out_single": mb.add(x=single, y=np.float32(0)),
            "out_half": mb.add(x=half, y=np.float16(0)),
            "out_whole": mb.add(x=whole, y=0),
        }

    example = {"single": X, "half": X.astype(np.float16), "whole": X.astype(np.int32)}
    model = mil.load(save(build, example))
    for given in (np.float16, np.float32, np.float64):
        results = model.predict({"single": X.astype(given), "half": X.astype(given), "whole": np.rint(X).astype(given)})
        assert [value.dtype for value in results.values()] == [value.dtype for value in example.values()]
        np.testing.assert_array_equal(results["out_single"], X)
        np.testing.assert_array_equal(results["out_half"], X)
        np.testing.assert_array_equal(results["out_whole"], np.rint(X))
    results = model.predict({"single": X, "half": X + 1e6, "whole": [[1, 2, 3]]})
    assert np.isinf(results["out_half"]).all()


def test_a_number_as_input(save):
    number = np.float32(2.5)
    model = mil.load(save(lambda mb, x: {"out": mb.square(x=x)}, {"x": number}))
    assert model.inputs[0].shape == ()
    for given in (2.5, number, np.array([2.5]), np.array([[2.5]], np.float16)):
        assert model.predict({"x": given})["out"].tolist() == [6.25]  # Core ML has no arrays of rank 0
    with pytest.raises(mil.BadInput, match="takes the shape"):
        model.predict({"x": [1.0, 2.0]})


def test_a_number_as_output_is_compared_as_a_number(save):
    x = np.array([1.5, 2.5], np.float32)
    session = RUNTIME.load(save(lambda mb, x: {"out": mb.reduce_sum(x=x, keep_dims=False)}, {"x": x}), threads=1)
    result = session.run({"x": x})["out"]
    assert result.shape == session.outputs[0].shape == ()
    assert result == 4


def test_bounds_of_a_flexible_image(ct, save):
    from coremltools.converters.mil.mil import get_new_symbol

    x = np.zeros((1, 3, 4, 6), np.float32)
    image = ct.ImageType(name="x", shape=(1, 3, ct.RangeDim(4, 8), ct.RangeDim(6, 12)))
    shape = (1, 3, get_new_symbol(), get_new_symbol())
    model = mil.load(save(lambda mb, x: {"out": mb.reduce_mean(x=x)}, {"x": x}, shapes={"x": shape}, inputs=[image]))
    for height, width in ((4, 6), (8, 12)):
        picture = Image.fromarray(np.full((height, width, 3), 7, np.uint8))
        np.testing.assert_allclose(model.predict({"x": picture})["out"], 7)
    with pytest.raises(mil.BadInput, match="13×4 pixels; the model takes width 6 to 12, height 4 to 8"):
        model.predict({"x": Image.fromarray(np.zeros((4, 13, 3), np.uint8))})
