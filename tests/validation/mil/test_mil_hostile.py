"""Packages written to harm: each is refused soon, and before memory is asked for.

They are written as messages, because coremltools would not build them.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from lvexport.validation import mil
from lvexport.validation.mil import protos
from tools.mil_fuzz.watch import MEBIBYTE, watched

X = np.ones((1, 4), np.float32)
FLOAT, INT, BOOL, TEXT = 11, 23, 1, 2
MOST_BYTES = 64 * MEBIBYTE


def tensor(kind, dtype, *shape):
    """Fills a ``ValueType``; a dimension of None is unknown."""
    kind.tensorType.dataType = dtype
    kind.tensorType.rank = len(shape)
    for size in shape:
        dimension = kind.tensorType.dimensions.add()
        if size is None:
            dimension.unknown.SetInParent()
        else:
            dimension.constant.size = size


class Block:
    """Adds operations to a block."""

    def __init__(self, message):
        self.message = message

    def const(self, name, value):
        array = np.asarray(value)
        operation = self.message.operations.add(type="const")
        field, dtype = {"f": ("floats", FLOAT), "i": ("ints", INT), "b": ("bools", BOOL), "U": ("strings", TEXT)}[
            array.dtype.kind
        ]
        for kind in (operation.outputs.add(name=name).type, operation.attributes["val"].type):
            tensor(kind, dtype, *array.shape)
        held = operation.attributes["val"].immediateValue.tensor
        getattr(held, field).values.extend(array.reshape(-1).tolist())
        return name

    def op(self, kind, name, dtype, shape, blocks=(), /, **inputs):
        operation = self.message.operations.add(type=kind)
        tensor(operation.outputs.add(name=name).type, dtype, *shape)
        for parameter, values in inputs.items():
            for value in values if isinstance(values, list) else [values]:
                operation.inputs[parameter].arguments.add(name=value)
        for inner in blocks:
            inner(Block(operation.blocks.add()))
        return name

    def returns(self, *names):
        self.message.outputs.extend(names)


@pytest.fixture
def package(tmp_path):
    """package(fill): one whose program ``fill(block)`` writes; it takes x [1, 4] and returns ``out``."""

    def package(fill, opset="CoreML7"):
        model = protos._generated("Model_pb2").Model(specificationVersion=8)
        for feature in (model.description.input.add(name="x"), model.description.output.add(name="out")):
            feature.type.multiArrayType.dataType = 65568
            feature.type.multiArrayType.shape.extend([1, 4])
        model.mlProgram.version = 1
        function = model.mlProgram.functions["main"]
        function.opset = opset
        tensor(function.inputs.add(name="x").type, FLOAT, 1, 4)
        fill(Block(function.block_specializations[opset]))
        folder = tmp_path / "hostile.mlpackage"
        (folder / "Data").mkdir(parents=True)
        (folder / "Data" / "model.mlmodel").write_bytes(model.SerializeToString())
        items = {"itemInfoEntries": {"a": {"path": "model.mlmodel"}}, "rootModelIdentifier": "a"}
        (folder / "Manifest.json").write_text(json.dumps(items))
        return folder

    return package


def attempt(path):
    return mil.load(path).predict({"x": X})


def refused(path, word):
    """It ends with a refusal that has ``word`` in it, within seconds and without growing."""
    found = watched(lambda: attempt(path), mil.MilError, path, MOST_BYTES)
    assert found.outcome == "refused", found
    assert word in found.detail, found


def test_the_builder_builds_sound_packages(package):
    def fill(block):
        block.op("mul", "out", FLOAT, (1, 4), x="x", y=block.const("two", np.float32(2)))
        block.returns("out")

    np.testing.assert_array_equal(attempt(package(fill))["out"], 2 * X)


HUGE = 2**20


def filled(block):
    block.op("fill", "big", FLOAT, (None, None), shape=block.const("s", [HUGE, HUGE]), value=block.const("v", 1.0))


def tiled(block):
    block.op("tile", "big", FLOAT, (None, None), x="x", reps=block.const("r", [HUGE, HUGE]))


def padded(block):
    amounts = block.const("p", [0, HUGE, 0, HUGE])
    block.op("pad", "big", FLOAT, (None, None), x="x", pad=amounts, mode=block.const("m", "constant"))


def ranged(block):
    ends = {name: block.const(name, value) for name, value in (("start", 0), ("end", 2**31 - 1), ("step", 1))}
    block.op("range_1d", "big", INT, (None,), **ends)


def one_hot(block):
    size = block.const("s", 2**31 - 1)
    block.op("one_hot", "big", INT, (None, None), indices=block.const("i", [0, 1]), one_hot_vector_size=size)


def declared(block):
    block.op("fill", "big", FLOAT, (HUGE, HUGE), shape=block.const("s", [HUGE, HUGE]), value=block.const("v", 1.0))


@pytest.mark.parametrize("fill", [filled, tiled, padded, ranged, one_hot, declared])
def test_huge_results(fill, package):
    def program(block):
        fill(block)
        block.op("reduce_max", "out", FLOAT, (1, 4), x="big")
        block.returns("out")

    refused(package(program), "big")


def nested(depth):
    def fill(block):
        if depth == 0:
            block.op("relu", f"v{depth}", FLOAT, (1, 4), x="x")
        else:
            yes = block.const(f"p{depth}", True)
            block.op("cond", f"v{depth}", FLOAT, (1, 4), (nested(depth - 1), nested(0)), pred=yes)
        block.returns(f"v{depth}")

    return fill


def fills(block):
    """Sixty-four values of 4 GiB each, all of them live until the last."""
    for number in range(64):
        shape = block.const(f"s{number}", [2**15, 2**15])
        block.op("fill", f"big{number}", FLOAT, (2**15, 2**15), shape=shape, value=block.const(f"v{number}", 1.0))
    block.op("concat", "out", FLOAT, (None, None), values=[f"big{n}" for n in range(64)], axis=block.const("a", 0))
    block.returns("out")


def test_values_that_are_live_at_once(package):
    path = package(fills)
    found = watched(lambda: mil.load(path, most_bytes=MEBIBYTE).predict({"x": X}), mil.MilError, path, MOST_BYTES)
    assert found.outcome == "refused", found
    assert "live when the operation fill" in found.detail, found


def test_values_that_are_let_go_do_not_count(package):
    def fill(block):
        for number in range(8):
            block.op("add", f"y{number}", FLOAT, (1, 4), x=f"y{number - 1}" if number else "x", y="x")
        block.op("identity", "out", FLOAT, (1, 4), x="y7")
        block.returns("out")

    path, each = package(fill), X.nbytes
    np.testing.assert_array_equal(mil.load(path, most_bytes=2 * each).predict({"x": X})["out"], 9 * X)
    with pytest.raises(mil.FailedOp, match="most_bytes"):
        mil.load(path, most_bytes=2 * each - 1).predict({"x": X})


def constants_of(block, name, dtype, shape, **inputs):
    operation = block.message.operations.add(type=name)
    tensor(operation.outputs.add(name="big").type, dtype, *shape)
    for parameter, value in inputs.items():
        operation.inputs[parameter].arguments.add(name=value)
    block.op("identity", "out", dtype, shape, x="big")
    block.returns("out")


def vectors(block):
    """A table whose entries are vectors of 2^16 elements, and 2^10 indices into it."""
    lut = block.const("lut", np.zeros((1, 1, 2**16), np.float32))
    indices = block.const("indices", np.zeros((2**10, 1), np.int32))
    shape = (2**26, 1)
    constants_of(
        block, "constexpr_lut_to_dense", FLOAT, shape, indices=indices, lut=lut, vector_axis=block.const("axis", 0)
    )


def broadcast(block):
    """Data of 2^15 rows of one element, and a scale along the other axis."""
    inputs = {
        "quantized_data": block.const("data", np.zeros((2**15, 1), np.int32)),
        "zero_point": block.const("zero", np.int32(0)),
        "scale": block.const("scale", np.ones(2**15, np.float32)),
        "axis": block.const("axis", 1),
    }
    constants_of(block, "constexpr_affine_dequantize", FLOAT, (2**15, 2**15), **inputs)


@pytest.mark.parametrize(("fill", "opset"), [(vectors, "CoreML8"), (broadcast, "CoreML7")])
def test_constants_that_grow_without_measure(fill, opset, package):
    refused(package(fill, opset), "times the size of the package")


def test_states_of_absurd_size(package):
    path = package(lambda block: (block.op("identity", "out", FLOAT, (1, 4), x="x"), block.returns("out")))
    model = protos.parse_model(path / "Data" / "model.mlmodel")
    function = model.mlProgram.functions["main"]
    for name in "ab":
        tensor(function.inputs.add(name=name).type.stateType.wrappedType, FLOAT, 2**15, 2**15)
    (path / "Data" / "model.mlmodel").write_bytes(model.SerializeToString())
    refused(path, "keeps the states")


def test_blocks_within_blocks(package):
    def program(depth):
        def fill(block):
            nested(depth)(block)
            del block.message.outputs[:]
            block.op("relu", "out", FLOAT, (1, 4), x=f"v{depth}")
            block.returns("out")

        return fill

    np.testing.assert_array_equal(attempt(package(program(20)))["out"], X)


def test_blocks_too_deep(package):
    def fill(block):
        nested(300)(block)

    refused(package(fill), "protobuf cannot decode it")


def test_an_endless_loop(package):
    def condition(block):
        tensor(block.message.inputs.add(name="c").type, FLOAT, 1, 4)
        block.returns(block.const("always", True))

    def body(block):
        tensor(block.message.inputs.add(name="b").type, FLOAT, 1, 4)
        block.op("relu", "again", FLOAT, (1, 4), x="b")
        block.returns("again")

    def fill(block):
        block.op("while_loop", "out", FLOAT, (1, 4), (condition, body), loop_vars="x")
        block.returns("out")

    refused(package(fill), "65,536 times")


def test_a_list_of_absurd_length(package):
    def fill(block):
        length, shape = block.const("n", 2**31 - 1), block.const("e", 1000)
        made = block.message.operations.add(type="make_list")
        made.outputs.add(name="ls").type.listType.length.constant.size = 1
        tensor(made.outputs[0].type.listType.type, FLOAT, 1000)
        made.inputs["init_length"].arguments.add(name=length)
        made.inputs["elem_shape"].arguments.add(name=shape)
        block.op("list_length", "length", INT, (), ls="ls")
        ends = {"start": block.const("zero", 0), "end": "length", "step": block.const("one", 1)}
        block.op("range_1d", "places", INT, (None,), **ends)
        block.op("list_gather", "big", FLOAT, (None, 1000), ls="ls", indices="places")
        block.op("reduce_max", "out", FLOAT, (1, 4), x="big")
        block.returns("out")

    refused(package(fill), "places")


def test_a_value_made_of_itself(package):
    def fill(block):
        block.op("add", "first", FLOAT, (1, 4), x="x", y="second")
        block.op("add", "second", FLOAT, (1, 4), x="first", y="first")
        block.op("relu", "out", FLOAT, (1, 4), x="second")
        block.returns("out")

    refused(package(fill), "before anything made it")


def test_a_block_does_not_see_into_another(package):
    def inner(block):
        block.op("relu", "hidden", FLOAT, (1, 4), x="x")
        block.returns("hidden")

    def other(block):
        block.op("relu", "leak", FLOAT, (1, 4), x="hidden")
        block.returns("leak")

    def fill(block):
        block.op("cond", "out", FLOAT, (1, 4), (inner, other), pred=block.const("p", False))
        block.returns("out")

    refused(package(fill), "'hidden' before anything made it")
