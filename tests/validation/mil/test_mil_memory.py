"""What a loaded package costs: its weights are in memory once, in the form in which they are computed with."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from lvexport.validation import mil
from lvexport.validation.mil import keeping
from tools.mil_fuzz.watch import MEBIBYTE, watched

SIDE = 2048
LAYERS = 6
MOST = 3  # times the package's size, and what the program and its activations take
BESIDES = 8 * MEBIBYTE
CHANCE = np.random.default_rng(5)


def size(package):
    return sum(path.stat().st_size for path in package.rglob("*") if path.is_file())


@pytest.fixture(scope="module", params=[np.float32, np.float16], ids=["fp32", "fp16"])
def large(request, save):
    """Linear layers with 25 million weights, and an input."""

    def build(mb, x):
        for _ in range(LAYERS):
            x = mb.linear(x=x, weight=(CHANCE.random((SIDE, SIDE), np.float32) / SIDE).astype(request.param))
        return {"out": x}

    x = np.ones((1, SIDE), request.param)
    return save(build, {"x": x}), x


def predicted(package, x):
    return mil.load(package).predict({"x": x})


def grown(attempt, package):
    """What ``attempt`` makes a process grow by, with everything imported before: the least of three, for the system
    hands memory out in pieces of any size, and takes it back when it likes."""
    found = [watched(attempt, mil.MilError, package, 2**40) for _ in range(3)]
    assert {one.outcome for one in found} == {"ran"}, found
    return min(found, key=lambda one: one.bytes)


def test_weights_are_in_memory_once(large):
    package, x = large
    mil.load(package).predict({"x": x})  # here, so that what is set up only once is not counted
    found = grown(lambda: mil.load(package).predict({"x": x}), package)
    weights = 4 * LAYERS * SIDE * SIDE  # held in single precision
    assert weights < found.bytes < MOST * size(package) + BESIDES


def test_constants_that_are_the_same_bytes_are_one_tensor(save):
    weight = CHANCE.random((SIDE, SIDE), np.float32)
    x = np.ones((1, SIDE), np.float32)

    def build(mb, x):
        first, second = (mb.const(val=weight.copy(), name=name) for name in ("first", "second"))
        first.op.weight_id = second.op.weight_id = "shared"
        return {"out": mb.add(x=mb.linear(x=x, weight=first), y=mb.linear(x=x, weight=second))}

    bytes_of = {}
    for name, program in (("one", lambda mb, x: {"out": mb.linear(x=x, weight=weight)}), ("two", build)):
        package = save(program, {"x": x})
        assert size(package) < 1.1 * weight.nbytes
        bytes_of[name] = grown(partial(predicted, package, x), package).bytes
    assert bytes_of["two"] < bytes_of["one"] + weight.nbytes / 2


def test_compressed_constants_are_unpacked_at_their_first_use(save):
    from coremltools.converters.mil.mil import types

    indices = CHANCE.integers(0, 16, (SIDE, SIDE)).astype(types.nptype_from_builtin(types.uint4))
    x = np.ones((1, SIDE), np.float32)

    def build(mb, x):
        lut = CHANCE.random((1, 1, 16, 1), np.float32)
        return {"out": mb.linear(x=x, weight=mb.constexpr_lut_to_dense(indices=indices, lut=lut), name="wide")}

    package = save(build, {"x": x}, "iOS18")
    mil.load(package).predict({"x": x})
    assert grown(lambda: mil.load(package), package).bytes < BESIDES
    assert grown(lambda: mil.load(package).predict({"x": x}, outputs=["x"]), package).bytes < BESIDES
    assert grown(lambda: mil.load(package).predict({"x": x}), package).bytes > 4 * SIDE * SIDE


@pytest.fixture(scope="module")
def palettes(save):
    """Twelve linear layers of 4-bit indices, and one of 4-bit integers: 26 MiB, unpacked eight times as much."""
    from coremltools.converters.mil.mil import types

    uint4 = types.nptype_from_builtin(types.uint4)

    def build(mb, x):
        for _ in range(12):
            indices = CHANCE.integers(0, 16, (SIDE, SIDE)).astype(uint4)
            lut = CHANCE.random((1, 1, 16, 1), np.float32) / SIDE
            x = mb.linear(x=x, weight=mb.constexpr_lut_to_dense(indices=indices, lut=lut))
        data = CHANCE.integers(0, 16, (SIDE, SIDE)).astype(uint4)
        scale = CHANCE.random((SIDE, SIDE // 32), np.float32) / SIDE
        return {"out": mb.linear(x=x, weight=mb.constexpr_blockwise_shift_scale(data=data, scale=scale))}

    return save(build, {"x": np.ones((1, SIDE), np.float32)}, "iOS18")


def twice(package):
    model = mil.load(package)
    return [model.predict({"x": np.ones((1, SIDE), np.float32)})["out"] for _ in range(2)]


def test_compressed_constants_take_no_more_than_others(palettes, monkeypatch):
    kept, again = twice(palettes)
    most = MOST * size(palettes) + BESIDES
    assert grown(partial(twice, palettes), palettes).bytes < most
    monkeypatch.setattr(keeping, "ROOM", 100)
    np.testing.assert_array_equal(np.stack([kept, again]), np.stack(twice(palettes)))
    assert grown(partial(twice, palettes), palettes).bytes > 1.5 * most


def test_stored_constants_without_room_are_read_each_time(large, monkeypatch):
    package, x = large
    kept = predicted(package, x)["out"]
    most = grown(partial(predicted, package, x), package).bytes
    monkeypatch.setattr(keeping, "ROOM", 0)
    monkeypatch.setattr(keeping, "LEAST_ROOM", 0)
    np.testing.assert_array_equal(predicted(package, x)["out"], kept)
    assert grown(partial(predicted, package, x), package).bytes < 0.75 * most


def test_a_file_cut_short_while_it_is_in_use(save):
    from coremltools.converters.mil.mil import types

    indices = CHANCE.integers(0, 16, (64, 64)).astype(types.nptype_from_builtin(types.uint4))
    x = np.ones((1, 64), np.float32)

    def build(mb, x):
        lut = CHANCE.random((1, 1, 16, 1), np.float32)
        return {"out": mb.linear(x=x, weight=mb.constexpr_lut_to_dense(indices=indices, lut=lut))}

    package = save(build, {"x": x}, "iOS18")
    model = mil.load(package)
    weights = package / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"
    with weights.open("r+b") as file:
        file.truncate(200)
    with pytest.raises(mil.DamagedPackage, match="cut short after it was opened"):
        model.predict({"x": x})


def test_a_list_that_grows_in_a_loop_is_counted(save):
    x = np.ones(256, np.float32)

    def build(mb, x):
        def going(i, ls):
            return mb.less(x=i, y=np.int32(100))

        def body(i, ls):
            return mb.add(x=i, y=np.int32(1)), mb.list_write(ls=ls, index=i, value=x)

        ls = mb.make_list(init_length=1, dynamic_length=True, elem_shape=x.shape)
        _, ls = mb.while_loop(_cond=going, _body=body, loop_vars=(np.int32(0), ls))
        return {"out": mb.list_read(ls=ls, index=np.int32(3))}

    package = save(build, {"x": x})
    np.testing.assert_array_equal(mil.load(package, most_bytes=300 * x.nbytes).predict({"x": x})["out"], x)
    with pytest.raises(mil.FailedOp, match=r"list_write .* most_bytes"):
        mil.load(package, most_bytes=50 * x.nbytes).predict({"x": x})
