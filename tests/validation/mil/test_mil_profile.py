"""What a profile says of a program whose costs can be counted by hand."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from lvexport.validation import mil
from lvexport.validation.mil import table

X = np.ones((1, 8, 16), np.float16)
N = np.int32([3])


@pytest.fixture(scope="module")
def package(save):
    def build(mb, x, n):
        wide = mb.linear(x=x, weight=np.ones((32, 16), np.float16), bias=np.zeros(32, np.float16), name="wide")
        joined = mb.concat(values=(wide, wide), axis=1, name="joined")

        def going(i, y):
            return mb.less(x=i, y=n, name="going")

        def body(i, y):
            return mb.add(x=i, y=np.int32(1), name="next"), mb.exp(x=y, name="raised")

        _, y = mb.while_loop(_cond=going, _body=body, loop_vars=(np.int32([0]), joined), name="loop")
        return {"out": mb.cast(x=y, dtype="fp32", name="single")}

    return save(build, {"x": X, "n": N})


@pytest.fixture(scope="module")
def model(package):
    return mil.load(package)


def test_bytes_are_those_of_the_declared_types(model):
    ops = {op.name: op for op in model.profile({"x": X, "n": N}).ops}
    wide, joined, single = ops["wide"], ops["joined"], ops["single"]
    assert (wide.type, wide.shape, wide.runs) == ("linear", (1, 8, 32), 1)
    assert wide.read == 2 * (8 * 16 + 32 * 16 + 32)
    assert wide.written == 2 * 8 * 32
    assert (joined.read, joined.written) == (2 * 2 * 8 * 32, 2 * 2 * 8 * 32)
    assert (single.read, single.written) == (2 * 16 * 32, 4 * 16 * 32)


def test_operations_in_a_loop_are_counted_each_time(model):
    ops = {op.type: op for op in model.profile({"x": X, "n": N}).ops}
    assert ops["exp"].runs == 3
    assert ops["less"].runs == 4
    assert ops["exp"].written == 3 * 2 * 16 * 32


@pytest.fixture
def slow_exp(monkeypatch):
    """Every exp takes 20 ms more."""

    def slow(entry):
        return replace(entry, function=lambda x: (time.sleep(0.02), entry.function(x))[1])

    monkeypatch.setitem(table._TABLE, "exp", {opset: slow(entry) for opset, entry in table._TABLE["exp"].items()})


def test_a_slow_operation_in_a_loop_is_slow_and_the_loop_is_not(package, slow_exp):
    profile = mil.load(package).profile({"x": X, "n": N}, predictions=3)
    spent = profile.by_type()
    assert profile.predictions == 3
    assert next(iter(spent)) == "exp"
    assert 0.06 <= spent["exp"] <= profile.seconds
    assert spent["while_loop"] < 0.02


def test_the_table_has_the_slowest_first_and_the_sums_last(model):
    profile = model.profile({"x": X, "n": N})
    lines = profile.table(most=2).splitlines()
    assert lines[0].split()[:2] == ["ms", "share"]
    assert len(lines) == 4
    slowest = max(profile.ops, key=lambda op: op.seconds)
    assert slowest.name in lines[1]
    assert f"{len(profile.ops)} operations" in lines[-1]
    assert "100.0%" in lines[-1]
    assert str(profile) == profile.table(20)
    assert len(profile.table(None).splitlines()) == len(profile.ops) + 2
