"""Models that keep states between predictions."""

from __future__ import annotations

import numpy as np
import pytest

from lvexport.validation import mil

X = np.array([[1.0, -2.0, 0.5]], dtype=np.float16)


@pytest.fixture(scope="module")
def model(ct, save):
    """Adds its input to a state in every prediction; a second state counts the inputs above 0."""

    def build(mb, x, total, positives):
        before = mb.read_state(input=total, name="first")
        after = mb.coreml_update_state(state=total, value=mb.add(x=before, y=x))
        seen = mb.read_state(input=positives)
        mb.coreml_update_state(
            state=positives, value=mb.add(x=seen, y=mb.cast(x=mb.greater(x=x, y=np.float16(0)), dtype="fp16"))
        )
        return {"out": mb.mul(x=after, y=np.float16(2)), "before": mb.identity(x=before)}

    return mil.load(save(build, {"x": X}, "iOS18", states={"total": (1, 3), "positives": (1, 3)}))


def test_a_state_is_read_and_written(model):
    state = model.make_state()
    total = np.zeros_like(X)
    for factor in (1, 2, -3):
        results = model.predict({"x": X * factor}, state)
        np.testing.assert_array_equal(results["before"], total)
        total = total + X * np.float16(factor)
        np.testing.assert_array_equal(results["out"], 2 * total)
        np.testing.assert_array_equal(state.read_state("total"), total)
    # Nothing in the program uses what this state becomes; it becomes it all the same.
    np.testing.assert_array_equal(state.read_state("positives"), [[2, 1, 2]])


def test_a_tap_runs_the_writes_too(model):
    state = model.make_state()
    assert list(model.predict({"x": X}, state, outputs=["x"])) == ["x"]
    np.testing.assert_array_equal(state.read_state("total"), X)


def test_states_do_not_know_of_each_other(model):
    one, other = model.make_state(), model.make_state()
    model.predict({"x": X}, one)
    np.testing.assert_array_equal(other.read_state("total"), np.zeros_like(X))


def test_a_state_can_be_set(model):
    state = model.make_state()
    mine = np.array([[10, 20, 30]])
    state.write_state("total", mine)
    mine[:] = 0
    np.testing.assert_array_equal(model.predict({"x": X}, state=state)["before"], [[10, 20, 30]])


def test_what_was_read_is_the_callers_own(model):
    state = model.make_state()
    state.read_state("total")[:] = 5
    np.testing.assert_array_equal(state.read_state("total"), np.zeros_like(X))


def test_wrong_use_is_explained(model):
    state = model.make_state()
    with pytest.raises(mil.BadInput, match=r"keeps the states positives, total: make one with .*make_state\(\)"):
        model.predict({"x": X})
    with pytest.raises(mil.BadInput, match="one prediction at a time"):
        model.predict([{"x": X}], state)
    with pytest.raises(mil.BadInput, match="no state 'sum'; the model keeps positives, total"):
        state.read_state("sum")
    with pytest.raises(mil.BadInput, match=r"'total' is fp16\[1, 3\]; given was int64 \(3,\)"):
        state.write_state("total", [1, 2, 3])


def test_a_model_without_states_takes_an_empty_one(save, model):
    stateless = mil.load(save(lambda mb, x: {"out": mb.relu(x=x)}, {"x": X}))
    empty = stateless.make_state()
    np.testing.assert_array_equal(stateless.predict({"x": X}, empty)["out"], X.clip(min=0))
    for given, to in ((empty, model), (model.make_state(), stateless)):
        with pytest.raises(mil.BadInput, match="made by another model"):
            to.predict({"x": X}, given)


def test_a_state_is_written_in_a_branch_and_in_a_loop(save):
    def build(mb, x, total):
        def write():
            return mb.coreml_update_state(state=total, value=mb.add(x=mb.read_state(input=total), y=x))

        def body(left):
            write()
            return mb.sub(x=left, y=1)

        mb.while_loop(_cond=lambda left: mb.greater(x=left, y=0), _body=body, loop_vars=(np.int32(3),))
        positive = mb.greater(x=mb.reduce_sum(x=x, keep_dims=False), y=np.float16(0))
        return {"out": mb.cond(pred=positive, _true_fn=write, _false_fn=lambda: mb.read_state(input=total))}

    model = mil.load(save(build, {"x": X}, "iOS18", states={"total": (1, 3)}))
    for x, times in ((X, 3), (-X, 4)):
        state = model.make_state()
        np.testing.assert_array_equal(model.predict({"x": x}, state)["out"], x * times)
        np.testing.assert_array_equal(state.read_state("total"), x * times)
