"""Functions of one and two tensors, element by element, against NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest

X = np.linspace(-0.95, 0.95, 12, dtype=np.float32).reshape(3, 4)
P = np.linspace(0.1, 4.0, 12, dtype=np.float32).reshape(3, 4)
R = np.array([[-1.5, -0.5, 0.5, 1.5], [2.5, -2.4, 0.0, 3.0], [-3.7, 1.2, 9.99, -0.01]], dtype=np.float32)
I = np.array([[7, -7, 6], [3, 0, -8]], dtype=np.int32)  # noqa: E741
J = np.array([[2, 2, -4], [-5, 3, 3]], dtype=np.int32)

UNARY = {
    "abs": ("x", lambda mb, v: mb.abs(x=v), np.abs(X)),
    "acos": ("x", lambda mb, v: mb.acos(x=v), np.arccos(X)),
    "asin": ("x", lambda mb, v: mb.asin(x=v), np.arcsin(X)),
    "atan": ("x", lambda mb, v: mb.atan(x=v), np.arctan(X)),
    "atanh": ("x", lambda mb, v: mb.atanh(x=v), np.arctanh(X)),
    "ceil": ("r", lambda mb, v: mb.ceil(x=v), np.ceil(R)),
    "clip": ("r", lambda mb, v: mb.clip(x=v, alpha=-1.0, beta=2.0), np.clip(R, -1, 2)),
    "cos": ("x", lambda mb, v: mb.cos(x=v), np.cos(X)),
    "cosh": ("x", lambda mb, v: mb.cosh(x=v), np.cosh(X)),
    "erf": ("x", lambda mb, v: mb.erf(x=v), np.vectorize(math.erf)(X)),
    "exp": ("x", lambda mb, v: mb.exp(x=v), np.exp(X)),
    "exp2": ("x", lambda mb, v: mb.exp2(x=v), np.exp2(X)),
    "floor": ("r", lambda mb, v: mb.floor(x=v), np.floor(R)),
    "inverse": ("p", lambda mb, v: mb.inverse(x=v, epsilon=0.5), 1 / (P + 0.5)),
    "inverse_default": ("p", lambda mb, v: mb.inverse(x=v), 1 / (P + 1e-4)),
    "log": ("p", lambda mb, v: mb.log(x=v), np.log(P)),
    "log_epsilon": ("p", lambda mb, v: mb.log(x=v, epsilon=1.0), np.log(P + 1)),
    "round": ("r", lambda mb, v: mb.round(x=v), np.round(R)),
    "rsqrt": ("p", lambda mb, v: mb.rsqrt(x=v, epsilon=0.25), 1 / np.sqrt(P + 0.25)),
    "sign": ("r", lambda mb, v: mb.sign(x=v), np.sign(R)),
    "sin": ("x", lambda mb, v: mb.sin(x=v), np.sin(X)),
    "sinh": ("x", lambda mb, v: mb.sinh(x=v), np.sinh(X)),
    "sqrt": ("p", lambda mb, v: mb.sqrt(x=v), np.sqrt(P)),
    "square": ("x", lambda mb, v: mb.square(x=v), np.square(X)),
    "tan": ("x", lambda mb, v: mb.tan(x=v), np.tan(X)),
    "tanh": ("x", lambda mb, v: mb.tanh(x=v), np.tanh(X)),
    "threshold": ("r", lambda mb, v: mb.threshold(x=v, alpha=0.25), np.maximum(R, 0.25)),
    "cast_drops_fractions": ("r", lambda mb, v: mb.cast(x=v, dtype="int32"), np.trunc(R).astype(np.int32)),
    "cast_to_bool_and_not": (
        "r",
        lambda mb, v: mb.cast(x=mb.logical_not(x=mb.cast(x=v, dtype="bool")), dtype="fp32"),
        (R == 0).astype(np.float32),
    ),
}


def compare(name):
    return lambda mb, i, j, r, p: mb.cast(x=getattr(mb, name)(x=i, y=j), dtype="int32")


BINARY = {
    "add": (lambda mb, i, j, r, p: mb.add(x=r, y=p), R + P),
    "sub": (lambda mb, i, j, r, p: mb.sub(x=r, y=p), R - P),
    "mul_broadcast": (lambda mb, i, j, r, p: mb.mul(x=r, y=P[:1]), R * P[:1]),
    "real_div": (lambda mb, i, j, r, p: mb.real_div(x=r, y=p), R / P),
    "floor_div": (lambda mb, i, j, r, p: mb.floor_div(x=r, y=p), np.floor_divide(R, P)),
    "mod": (lambda mb, i, j, r, p: mb.mod(x=r, y=p), np.mod(R, P)),
    "pow": (lambda mb, i, j, r, p: mb.pow(x=p, y=r), np.power(P, R)),
    "maximum": (lambda mb, i, j, r, p: mb.maximum(x=r, y=p), np.maximum(R, P)),
    "minimum": (lambda mb, i, j, r, p: mb.minimum(x=r, y=p), np.minimum(R, P)),
    "int_add": (lambda mb, i, j, r, p: mb.add(x=i, y=j), I + J),
    "int_floor_div": (lambda mb, i, j, r, p: mb.floor_div(x=i, y=j), I // J),
    "int_mod": (lambda mb, i, j, r, p: mb.mod(x=i, y=j), I % J),
    "equal": (compare("equal"), (I == J).astype(np.int32)),
    "not_equal": (compare("not_equal"), (I != J).astype(np.int32)),
    "greater": (compare("greater"), (I > J).astype(np.int32)),
    "greater_equal": (compare("greater_equal"), (I >= J).astype(np.int32)),
    "less": (compare("less"), (I < J).astype(np.int32)),
    "less_equal": (compare("less_equal"), (I <= J).astype(np.int32)),
}
for _name, _expected in {
    "logical_and": (I > 0) & (J > 0),
    "logical_or": (I > 0) | (J > 0),
    "logical_xor": (I > 0) ^ (J > 0),
}.items():
    BINARY[_name] = (
        lambda mb, i, j, r, p, name=_name: mb.cast(
            x=getattr(mb, name)(x=mb.greater(x=i, y=0), y=mb.greater(x=j, y=0)), dtype="int32"
        ),
        _expected.astype(np.int32),
    )
BINARY["select"] = (lambda mb, i, j, r, p: mb.select(cond=mb.greater(x=i, y=j), a=i, b=j), np.where(I > J, I, J))


@pytest.fixture(scope="module")
def unary(run):
    def build(mb, **values):
        return {name: make(mb, values[operand]) for name, (operand, make, _) in UNARY.items()}

    return run(build, {"x": X, "p": P, "r": R})


@pytest.fixture(scope="module")
def binary(run):
    def build(mb, i, j, r, p):
        return {name: make(mb, i, j, r, p) for name, (make, _) in BINARY.items()}

    return run(build, {"i": I, "j": J, "r": R, "p": P})


@pytest.mark.parametrize("name", UNARY)
def test_unary(name, unary):
    np.testing.assert_allclose(unary[name], UNARY[name][2], rtol=3e-6, atol=1e-6)


@pytest.mark.parametrize("name", BINARY)
def test_binary(name, binary):
    expected = BINARY[name][1]
    assert binary[name].dtype == expected.dtype
    np.testing.assert_allclose(binary[name], expected, rtol=3e-6, atol=1e-6)
