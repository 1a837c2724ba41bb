"""What a user sees of a loaded model: inputs and outputs, prediction, taps, precision, and errors of use."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from lvexport.validation import mil
from lvexport.validation.mil import protos, table

X = np.linspace(-2, 2, 12, dtype=np.float32).reshape(1, 3, 4)
HALF = np.array([[1.0, 1000.0, 60000.0, 3.0, 0.1]], dtype=np.float16)
N = np.array([3, -1], dtype=np.int32)


@pytest.fixture(scope="module")
def chain(save):
    def build(mb, x, n):
        first = mb.add(x=x, y=np.float32(1), name="first")
        second = mb.square(x=first, name="second")
        return {"out": mb.relu(x=second), "count": mb.add(x=n, y=1)}

    return save(build, {"x": X, "n": N})


@pytest.fixture(scope="module")
def model(chain):
    return mil.load(chain)


def test_describes_its_inputs_and_outputs(model):
    assert [(f.name, f.kind, f.shape, f.dtype) for f in model.inputs] == [
        ("x", "array", (1, 3, 4), "float32"),
        ("n", "array", (2,), "int32"),
    ]
    assert [(f.name, f.shape, f.dtype) for f in model.outputs] == [
        ("out", (1, 3, 4), "float32"),
        ("count", (2,), "int32"),
    ]
    assert [operation.type for operation in model.operations][:2] == ["add", "square"]


def test_predicts_from_arrays_lists_and_tensors(model):
    expected = np.square(X + 1)
    for x in (X, X.tolist(), torch.from_numpy(X).requires_grad_(), X.astype(np.float64)):
        results = model.predict({"x": x, "n": [3, -1]})
        np.testing.assert_allclose(results["out"], expected, rtol=1e-6)
        assert results["count"].tolist() == [4, 0]
        assert results["out"].dtype == np.float32
        assert results["count"].dtype == np.int32


def test_fractions_for_an_integer_input_are_cut_off(model):
    assert model.predict({"x": X, "n": np.array([3.9, -1.9])})["count"].tolist() == [4, 0]


def test_a_list_of_inputs_gives_a_list_of_results(model):
    results = model.predict([{"x": X, "n": N}, {"x": -X, "n": N}])
    np.testing.assert_allclose([r["out"] for r in results], [np.square(X + 1), np.square(1 - X)], rtol=1e-6)


def test_any_value_of_the_program_can_be_tapped(model):
    results = model.predict({"x": X, "n": N}, outputs=["first", "x", "out"])
    assert list(results) == ["first", "x", "out"]
    np.testing.assert_array_equal(results["first"], X + 1)
    np.testing.assert_array_equal(results["x"], X)


def test_constants_can_be_tapped_too(save):
    def build(mb, x):
        weight = mb.const(val=np.eye(4, dtype=np.float32), name="weight")
        return {
            "out": mb.conv(x=x, weight=mb.expand_dims(x=weight, axes=[2]), pad_type=mb.const(val="same", name="how"))
        }

    x = np.zeros((1, 4, 4), np.float32)
    results = mil.load(save(build, {"x": x})).predict({"x": x}, outputs=["weight", "how"])
    np.testing.assert_array_equal(results["weight"], np.eye(4))
    assert results["how"] == "same"


def test_results_are_the_callers_own(model):
    data = {"x": X.copy(), "n": N}
    model.predict(data, outputs=["x"])["x"][:] = 99
    np.testing.assert_array_equal(data["x"], X)


@pytest.mark.parametrize(
    ("data", "outputs", "message"),
    [
        ({"x": X}, None, "takes the inputs n, x; given were x"),
        ({"x": X, "n": N, "y": X}, None, "given were n, x, y"),
        ({"x": X[0], "n": N}, None, r"takes the shape \(1, 3, 4\); given was \(3, 4\)"),
        ({"x": X, "n": np.array([np.nan, 1])}, None, "takes int32; given were values that it cannot hold"),
        ({"x": X, "n": np.array([2**40, 1])}, None, "takes int32"),
        ({"x": X, "n": np.array([2.0**31, 1])}, None, "takes int32"),
        ({"x": "text", "n": N}, None, "takes numbers"),
        ({"x": [[1], [1, 2]], "n": N}, None, "is no array"),
        ({"x": X, "n": N}, ["secnd"], "no value named 'secnd'. Did you mean 'second'"),
    ],
)
def test_wrong_use_is_explained(model, data, outputs, message):
    with pytest.raises(mil.BadInput, match=message):
        model.predict(data, outputs=outputs)


def test_half_precision_is_rounded_after_every_operation(save):
    def build(mb, h):
        # 1 + 1000 fits float16 only rounded; 60000 + 10000 does not fit at all.
        total = mb.add(x=h, y=np.float16(1000.3), name="total")
        product = mb.mul(x=total, y=total, name="product")
        return {"out": mb.sub(x=total, y=np.float16(1000.3)), "scaled": mb.mul(x=product, y=np.float16(2**-11))}

    results = mil.load(save(build, {"h": HALF})).predict({"h": HALF}, outputs=["total", "product", "scaled", "out"])
    addend = np.float16(1000.3)
    with np.errstate(over="ignore"):
        expected = {"total": HALF + addend}
        expected["product"] = expected["total"] * expected["total"]
        expected["scaled"] = expected["product"] * np.float16(2**-11)
        expected["out"] = expected["total"] - addend
    for name, value in expected.items():
        assert results[name].dtype == np.float16
        np.testing.assert_array_equal(results[name], value)
    assert np.isinf(results["product"]).all()  # 1001² is beyond float16, and scaling it back does not help


def test_half_precision_sums_are_accumulated_in_single(save):
    ones = np.ones((1, 4096), dtype=np.float16)
    weight = np.ones((1, 4096), dtype=np.float16)
    model = mil.load(save(lambda mb, x: {"out": mb.linear(x=x, weight=weight)}, {"x": ones}))
    assert model.predict({"x": ones})["out"].item() == 4096  # a float16 accumulator would stop at 2048


def test_missing_operations_are_all_named_before_anything_runs(save, monkeypatch):
    path = save(lambda mb, x: {"out": mb.tanh(x=mb.erf(x=mb.erf(x=x)))}, {"x": X})
    monkeypatch.delitem(table._TABLE, "erf")
    monkeypatch.delitem(table._TABLE, "tanh")
    with pytest.raises(mil.UnsupportedOp, match=r"erf \(2×\), tanh \(1×\)") as caught:
        mil.load(path)
    assert caught.value.ops == {"erf": 2, "tanh": 1}


def test_flexible_shapes(ct, save):
    def save_with(shape):
        inputs = [ct.TensorType(name="x", shape=shape)]
        symbolic = np.zeros((1, 3, 4), np.float32)
        return save_symbolic(ct, save, inputs, symbolic)

    ranged = mil.load(save_with((1, ct.RangeDim(2, 6), 4)))
    listed = mil.load(save_with(ct.EnumeratedShapes([(1, 3, 4), (1, 5, 4)])))
    core_ml_says = {
        ranged: r"Size \(7\) of dimension \(1\) is not in allowed range \(2\.\.6\)",
        listed: r"MultiArray Shape \(1 x 7 x 4\) was not in enumerated set of allowed shapes",
    }
    for model, words in core_ml_says.items():
        for rows in (3, 5):
            x = np.full((1, rows, 4), -2.5, np.float32)
            np.testing.assert_array_equal(model.predict({"x": x})["out"], np.abs(x))
        with pytest.raises(mil.BadInput, match=f"takes the shape.*{words}"):
            model.predict({"x": np.zeros((1, 7, 4), np.float32)})
    assert ranged.inputs[0].shape == (1, None, 4)


def save_symbolic(ct, save, inputs, example):
    """A torch model: the builder's own inputs have fixed shapes."""

    class Absolute(torch.nn.Module):
        def forward(self, x):
            return x.abs()

    traced = torch.jit.trace(Absolute(), torch.from_numpy(example))
    converted = ct.convert(
        traced,
        inputs=inputs,
        outputs=[ct.TensorType(name="out")],
        convert_to="mlprogram",
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )
    path = save(lambda mb, x: {"out": mb.identity(x=x)}, {"x": example}).with_name("flexible.mlpackage")
    converted.save(str(path))
    return path


def test_loading_needs_no_coremltools_and_does_not_disturb_it(chain):
    """Elsewhere in these tests coremltools is imported first; here it comes after."""
    script = """
import sys, warnings
from lvexport.validation import mil
assert not {"torch", "numpy", "google.protobuf"} & sys.modules.keys(), "importing is not cheap"
model = mil.load(sys.argv[1])
assert "coremltools" not in sys.modules
warnings.simplefilter("ignore")
import coremltools, numpy as np
spec = coremltools.models.MLModel(sys.argv[1], skip_model_load=True).get_spec()
assert spec.mlProgram.functions["main"].opset == "CoreML7"
assert mil.load(sys.argv[1]).predict({"x": np.zeros((1, 3, 4)), "n": [1, 1]})["out"].sum() == 12
"""
    done = subprocess.run([sys.executable, "-c", script, str(chain)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_package_for_ios_26(save):
    x = np.linspace(-1, 1, 4, dtype=np.float32).reshape(1, 4)

    def build(mb, x):
        return {"out": mb.gelu(x=mb.linear(x=x, weight=np.eye(4, dtype=np.float32)))}

    package = save(build, {"x": x}, "iOS26")
    message = protos.parse_model(package / "Data/com.apple.CoreML/model.mlmodel")
    assert message.specificationVersion == 10
    assert message.mlProgram.functions["main"].opset == "CoreML9"
    expected = torch.nn.functional.gelu(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(mil.load(package).predict({"x": x})["out"], expected, atol=1e-6)
