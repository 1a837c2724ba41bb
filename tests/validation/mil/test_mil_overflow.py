"""The first operation that leaves the range of half precision is found, and an infinity that is meant is none."""

from __future__ import annotations

import numpy as np
import pytest

from lvexport.validation import mil
from lvexport.validation.contract import Overflow
from lvexport.validation.mil.overflow import NotFinite, first_overflow
from lvexport.validation.runtimes.coreml import RUNTIME

H = np.linspace(-3, 3, 64, dtype=np.float16).reshape(1, 64)


@pytest.fixture
def overflow(save):
    def overflow(build, numerics, data=H):
        path = save(build, {"h": data})
        seen, exact = NotFinite(), NotFinite()
        mil.load(path, numerics=numerics).watched({"h": data}, seen)
        mil.load(path, numerics="exact").watched({"h": data}, exact)
        return first_overflow(seen, exact)

    return overflow


def test_the_first_of_several_is_named(overflow):
    def build(mb, h):
        small = mb.mul(x=h, y=np.float16(1000), name="small")
        first = mb.mul(x=small, y=np.float16(1000), name="first")
        return {"out": mb.sigmoid(x=mb.mul(x=first, y=np.float16(2), name="second"))}

    assert overflow(build, "rounded") == "mul (which makes 'first')"


def test_infinities_that_are_meant_are_not_reported(overflow):
    def build(mb, h):
        masked = mb.select(cond=mb.greater(x=h, y=np.float16(0)), a=h, b=np.float16(-np.inf), name="masked")
        return {"out": mb.softmax(x=mb.add(x=masked, y=np.float16(1)), axis=-1)}

    assert overflow(build, "rounded") is None
    assert overflow(build, "pessimistic") is None


def test_an_overflow_beside_a_mask_is_reported(overflow):
    def build(mb, h):
        masked = mb.select(cond=mb.greater(x=h, y=np.float16(0)), a=h, b=np.float16(-np.inf))
        return {"out": mb.softmax(x=mb.mul(x=masked, y=np.float16(30000), name="scaled"), axis=-1)}

    assert overflow(build, "rounded") == "mul (which makes 'scaled')"


def test_a_sum_that_an_operation_hides_is_found_where_sums_are_kept_in_half(overflow):
    def build(mb, h):
        return {"out": mb.layer_norm(x=mb.mul(x=h, y=np.float16(60)), axes=[-1], name="norm")}

    assert overflow(build, "rounded") is None
    assert overflow(build, "pessimistic") == "layer_norm (which makes 'norm')"


def test_inside_a_loop_the_round_in_which_it_happens_is_compared(overflow):
    def build(mb, h):
        def going(n, x):
            return mb.less(x=n, y=np.int32(5))

        def body(n, x):
            return mb.add(x=n, y=np.int32(1)), mb.mul(x=x, y=np.float16(10), name="grown")

        _, x = mb.while_loop(_cond=going, _body=body, loop_vars=(np.int32(0), h))
        return {"out": mb.tanh(x=x)}

    assert overflow(build, "rounded").startswith("mul (which makes 'grown")


def test_the_run_that_is_judged_looks_out_by_itself(save):
    session = RUNTIME.load(
        save(lambda mb, h: {"out": mb.tanh(x=mb.mul(x=h, y=np.float16(9000), name="big"))}, {"h": H}), 1
    )
    assert session.under("rounded") is session
    for _ in range(20):
        session.run({"h": H})
    assert session.overflow is None
    session.run({"h": 10 * H})
    assert session.overflow == Overflow("rounded", "mul (which makes 'big')")


def test_states_are_followed_without_rounding_too(save):
    def build(mb, h, total):
        mb.coreml_update_state(
            state=total, value=mb.mul(x=mb.read_state(input=total), y=np.float16(0.5), name="halved")
        )
        summed = mb.add(x=mb.read_state(input=total), y=h)
        mb.coreml_update_state(state=total, value=summed)
        return {"out": mb.tanh(x=mb.mul(x=summed, y=np.float16(1000), name="big"))}

    session = RUNTIME.load(save(build, {"h": H}, "iOS18", states={"total": H.shape}), 1)
    masked = np.where(H > 0, H, np.float16(-np.inf)).astype(np.float16)
    for given in (masked, H):  # an infinity that is meant stays in the state
        session.run({"h": given})
    assert session.overflow is None
    session.restart()
    session.run({"h": np.float16(30) * H})
    assert session.overflow == Overflow("rounded", "mul (which makes 'big')")
