"""Branches, loops and lists, against what Python computes."""

from __future__ import annotations

import numpy as np
import pytest

from lvexport.validation import mil

X = np.array([[1.5, -2.0, 0.5], [4.0, -1.0, 3.0]], dtype=np.float32)
COUNT = np.array([5], dtype=np.int32)
FIRST = np.array([1, 3], dtype=np.float32)
SECOND = np.array([2, 4], dtype=np.float32)


def scalar(mb, value):
    return mb.squeeze(x=value)


@pytest.fixture(scope="module")
def branches(save):
    def build(mb, x):
        offset = mb.add(x=x, y=np.float32(10), name="offset")
        positive = mb.greater(x=mb.reduce_sum(x=x, keep_dims=False), y=np.float32(0), name="positive")

        def nested():
            large = mb.greater(x=mb.reduce_max(x=x, keep_dims=False), y=np.float32(3.5))
            return mb.cond(
                pred=large,
                _true_fn=lambda: mb.mul(x=offset, y=np.float32(2)),
                _false_fn=lambda: mb.sub(x=offset, y=x),
            )

        chosen, same = mb.cond(
            pred=positive,
            _true_fn=lambda: (nested(), mb.identity(x=x)),
            _false_fn=lambda: (mb.exp(x=x), offset),
        )
        return {"out": chosen, "same": same}

    return mil.load(save(build, {"x": X}))


@pytest.mark.parametrize(
    ("x", "out", "same"),
    [
        (X, 2 * (X + 10), X),
        (X.clip(max=3), X.clip(max=3) + 10 - X.clip(max=3), X.clip(max=3)),
        (-X, np.exp(-X), 10 - X),
    ],
    ids=["true, true", "true, false", "false"],
)
def test_cond(branches, x, out, same):
    results = branches.predict({"x": x})
    np.testing.assert_allclose(results["out"], out, rtol=1e-6)
    np.testing.assert_allclose(results["same"], same, rtol=1e-6)


def test_only_the_chosen_branch_runs(save):
    def build(mb, x):
        inside = mb.less(x=mb.reduce_max(x=x, keep_dims=False), y=np.float32(2))
        place = mb.cast(x=mb.reduce_max(x=x, keep_dims=False), dtype="int32")
        return {
            "out": mb.cond(
                pred=inside,
                _true_fn=lambda: mb.gather(x=x, indices=place, axis=0),
                _false_fn=lambda: mb.gather(x=x, indices=np.int32(0), axis=0),
            )
        }

    model = mil.load(save(build, {"x": FIRST}))
    assert model.predict({"x": [1, 0.5]})["out"] == 0.5
    assert model.predict({"x": [1, 7]})["out"] == 1  # place 7 would be outside


def collatz(n):
    steps = 0
    while n > 1:
        n, steps = (n // 2, steps + 1) if n % 2 == 0 else (3 * n + 1, steps + 1)
    return steps


@pytest.fixture(scope="module")
def loop(save):
    """Counts the steps of the Collatz sequence: a branch inside of a loop."""

    def build(mb, n):
        def body(value, steps):
            even = mb.equal(x=mb.mod(x=value, y=2), y=0)
            following = mb.cond(
                pred=even,
                _true_fn=lambda: mb.floor_div(x=value, y=2),
                _false_fn=lambda: mb.add(x=mb.mul(x=value, y=3), y=1),
            )
            return following, mb.add(x=steps, y=1)

        start = (scalar(mb, n), mb.sub(x=scalar(mb, n), y=scalar(mb, n)))
        _, steps = mb.while_loop(_cond=lambda value, steps: mb.greater(x=value, y=1), _body=body, loop_vars=start)
        return {"steps": steps}

    return save(build, {"n": COUNT})


@pytest.mark.parametrize("n", [1, 2, 7, 27])
def test_while_loop(loop, n):
    assert mil.load(loop).predict({"n": [n]})["steps"] == collatz(n)


def test_a_loop_is_given_up_after_the_rounds_that_are_allowed(loop):
    assert mil.load(loop, most_rounds=300).predict({"n": [27]})["steps"] == 111
    with pytest.raises(mil.FailedOp, match=r"went round 100 times.*most_rounds"):
        mil.load(loop, most_rounds=100).predict({"n": [27]})


def test_a_loop_without_an_end_is_given_up(save):
    def build(mb, n):
        end = mb.while_loop(
            _cond=lambda value: mb.greater(x=value, y=0),
            _body=lambda value: (mb.add(x=value, y=1),),
            loop_vars=(scalar(mb, n),),
        )
        return {"out": end}

    model = mil.load(save(build, {"n": COUNT}), most_rounds=5000)
    with pytest.raises(mil.FailedOp, match="went round 5,000 times"):
        model.predict({"n": [1]})


def test_half_precision_is_rounded_inside_of_a_loop(save):
    def build(mb, h, n):
        def body(value, left):
            return mb.mul(x=value, y=np.float16(1.1)), mb.sub(x=left, y=1)

        value, _ = mb.while_loop(
            _cond=lambda value, left: mb.greater(x=left, y=0), _body=body, loop_vars=(h, scalar(mb, n))
        )
        return {"out": value}

    h = np.array([1.0, 3.0], np.float16)
    out = mil.load(save(build, {"h": h, "n": COUNT})).predict({"h": h, "n": [4]})["out"]
    expected = h
    for _ in range(4):
        expected = expected * np.float16(1.1)
    assert out.dtype == np.float16
    np.testing.assert_array_equal(out, expected)


@pytest.fixture(scope="module")
def lists(run):
    """coremltools' own case (TestList in its ``ops/tests/iOS14/test_control_flow.py``), and some lengths."""

    def build(mb, a, b):
        empty = mb.make_list(init_length=2, elem_shape=(2,))
        one = mb.list_write(ls=empty, index=0, value=a)
        five = mb.list_write(ls=one, index=4, value=b)  # beyond the end
        full = mb.list_scatter(ls=five, indices=[2, 1], value=np.array([[-1, -2], [-4, -5]], dtype=np.float32))
        return {
            "zeros": mb.list_read(ls=empty, index=0),
            "first": mb.list_read(ls=full, index=0),
            "some": mb.list_gather(ls=full, indices=[4, 2, 3]),
            "lengths": mb.stack(values=[mb.list_length(ls=ls) for ls in (empty, one, five, full)], axis=0),
        }

    return run(build, {"a": FIRST, "b": SECOND}, target="iOS15")


def test_list(lists):
    np.testing.assert_array_equal(lists["zeros"], [0, 0])
    np.testing.assert_array_equal(lists["first"], FIRST)
    np.testing.assert_array_equal(lists["some"], [[2, 4], [-1, -2], [0, 0]])
    np.testing.assert_array_equal(lists["lengths"], [2, 2, 5, 5])


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_loop_fills_a_list_of_elements_of_unknown_size(save, dtype):
    def build(mb, x, n):
        ls = mb.make_list(init_length=1, elem_shape=("width",), dtype="fp32" if dtype is np.float32 else "fp16")

        def body(i, ls):
            new = mb.mul(x=x, y=mb.cast(x=i, dtype="fp32" if dtype is np.float32 else "fp16"))
            return mb.add(x=i, y=1), mb.list_write(ls=ls, index=i, value=new)

        end = scalar(mb, n)
        _, full = mb.while_loop(
            _cond=lambda i, ls: mb.less(x=i, y=end), _body=body, loop_vars=(mb.sub(x=end, y=end), ls)
        )
        places = mb.range_1d(start=0, end=mb.list_length(ls=full), step=1)
        return {"out": mb.list_gather(ls=full, indices=places)}

    x = np.array([1.1, 2.2, 3.3], dtype)
    model = mil.load(save(build, {"x": x, "n": COUNT}))
    for count in (1, 4):
        out = model.predict({"x": x, "n": [count]})["out"]
        np.testing.assert_array_equal(out, np.stack([x * dtype(i) for i in range(count)]))


def test_a_list_of_fixed_length_does_not_grow(save):
    def build(mb, a, n):
        ls = mb.make_list(init_length=3, elem_shape=(2,), dynamic_length=False)
        return {"out": mb.list_read(ls=mb.list_write(ls=ls, index=scalar(mb, n), value=a), index=1)}

    model = mil.load(save(build, {"a": FIRST, "n": COUNT}))
    np.testing.assert_array_equal(model.predict({"a": FIRST, "n": [1]})["out"], FIRST)
    for place in (3, -1):
        with pytest.raises(mil.FailedOp, match=f"no element {place} in a list of 3"):
            model.predict({"a": FIRST, "n": [place]})


def test_a_list_of_absurd_length_costs_nothing_until_it_is_read(save):
    def build(mb, a):
        ls = mb.make_list(init_length=2**31 - 1, elem_shape=(2,))
        return {"out": mb.list_read(ls=mb.list_write(ls=ls, index=2**31 - 2, value=a), index=2**31 - 2)}

    np.testing.assert_array_equal(mil.load(save(build, {"a": FIRST})).predict({"a": FIRST})["out"], FIRST)
