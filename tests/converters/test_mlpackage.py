"""Core ML packages after what is in them twice is taken out: smaller, and the same function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lvexport import files
from lvexport.converters.mlpackage import finish
from lvexport.validation import mil


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A program with equal constants in both arms of a condition and outside of it, and one that is an output."""
    import coremltools as ct
    from coremltools.converters.mil import Builder as mb  # noqa: N813, as coremltools calls it

    @mb.program(input_specs=[mb.TensorSpec((2, 3))], opset_version=ct.target.iOS17)
    def program(x: Any) -> Any:
        grown = mb.add(x=mb.mul(x=x, y=np.float32(3.0)), y=np.float32(0.25), name="v0")
        whole = mb.quantize(input=grown, scale=np.float32(0.1), zero_point=np.int8(2), output_dtype="int8")
        back = mb.dequantize(input=whole, scale=np.float32(0.1), zero_point=np.int8(2))
        total = mb.reduce_sum(x=back, axes=[0, 1], keep_dims=False)
        positive = mb.cast(x=mb.greater(x=total, y=np.float32(0.0)), dtype="bool")
        chosen = mb.cond(
            pred=positive,
            _true_fn=lambda: mb.mul(x=back, y=np.float32(3.0)),
            _false_fn=lambda: mb.sub(x=back, y=np.float32(0.25)),
        )
        return mb.add(x=chosen, y=np.float32(3.0), name="out"), mb.identity(x=np.float32([3.0]), name="three")

    out = tmp_path / "model.mlpackage"
    model = ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS17,
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )
    model.save(str(out))
    return out


def finished(package: Path) -> None:
    import coremltools as ct

    finish(package, ct.utils.load_spec(str(package)))


def answers(package: Path) -> list[dict[str, Any]]:
    loaded, rng = mil.load(package), np.random.default_rng(0)
    name = loaded.inputs[0].name
    both = [rng.normal(size=(2, 3)).astype(np.float32) + shift for shift in (-2, 2)]
    return [loaded.predict({name: x.astype(np.float32)}) for x in both]


def test_the_function_is_the_same_and_the_package_smaller(package: Path) -> None:
    before, size = answers(package), files.size(package)
    finished(package)
    assert files.size(package) < 0.9 * size
    for one, other in zip(before, answers(package), strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def test_constants_of_different_value_or_type_stay_apart(package: Path) -> None:
    import coremltools as ct

    finished(package)
    block = ct.utils.load_spec(str(package)).mlProgram.functions["main"].block_specializations["CoreML7"]
    constants = [
        op.attributes["val"].SerializeToString(deterministic=True) for op in block.operations if op.type == "const"
    ]
    assert len(constants) == len(set(constants)) > 3
    names = [output.name for op in block.operations for output in op.outputs]
    assert len(names) == len(set(names))
