"""Functions of one tensor, element by element (``iOS15/elementwise_unary.py``, ``iOS17/elementwise_unary.py``)."""

from __future__ import annotations

import torch
from torch import Tensor

from lvexport.validation.mil.call import Call
from lvexport.validation.mil.numerics import CARRIERS
from lvexport.validation.mil.table import op
from lvexport.validation.mil.types import BY_NAME


@op("abs", exact=True)
def absolute(x: Tensor) -> Tensor:
    return torch.abs(x)


@op("acos")
def acos(x: Tensor) -> Tensor:
    return torch.acos(x)


@op("asin")
def asin(x: Tensor) -> Tensor:
    return torch.asin(x)


@op("atan")
def atan(x: Tensor) -> Tensor:
    return torch.atan(x)


@op("atanh")
def atanh(x: Tensor) -> Tensor:
    return torch.atanh(x)


@op("cast")
def cast(x: Tensor, dtype: str, call: Call) -> Tensor:
    """To an integer type, fractions are dropped; to bool, all but 0 is true. fp16 is rounded like any fp16 result."""
    if BY_NAME.get(dtype) != call.dtype:
        raise ValueError(f"the result of a cast to {dtype!r} is declared as {call.dtype.name}")
    return x.to(CARRIERS[call.dtype])


@op("ceil", exact=True)
def ceil(x: Tensor) -> Tensor:
    return torch.ceil(x)


@op("clip")
def clip(x: Tensor, alpha: float, beta: float) -> Tensor:
    return x.clamp(alpha, beta)


@op("cos")
def cos(x: Tensor) -> Tensor:
    return torch.cos(x)


@op("cosh")
def cosh(x: Tensor) -> Tensor:
    return torch.cosh(x)


@op("erf")
def erf(x: Tensor) -> Tensor:
    return torch.erf(x)


@op("exp")
def exp(x: Tensor) -> Tensor:
    return torch.exp(x)


@op("exp2")
def exp2(x: Tensor) -> Tensor:
    # The one function of this module that takes integers and yields fractions, which the integer result drops.
    return torch.exp2(x) if x.is_floating_point() else torch.exp2(x.double()).to(x.dtype)


@op("floor", exact=True)
def floor(x: Tensor) -> Tensor:
    return torch.floor(x)


@op("inverse")
def inverse(x: Tensor, call: Call, epsilon: float | None = None) -> Tensor:
    return 1 / (x + (call.represented(1e-4) if epsilon is None else epsilon))


@op("log")
def log(x: Tensor, call: Call, epsilon: float | None = None) -> Tensor:
    return torch.log(x + (call.represented(1e-45) if epsilon is None else epsilon))


@op("logical_not")
def logical_not(x: Tensor) -> Tensor:
    return torch.logical_not(x)


@op("round", exact=True)
def round_half_to_even(x: Tensor) -> Tensor:
    return torch.round(x)


@op("rsqrt")
def rsqrt(x: Tensor, call: Call, epsilon: float | None = None) -> Tensor:
    return torch.rsqrt(x + (call.represented(1e-12) if epsilon is None else epsilon))


@op("sign", exact=True)
def sign(x: Tensor) -> Tensor:
    return torch.sign(x)


@op("sin")
def sin(x: Tensor) -> Tensor:
    return torch.sin(x)


@op("sinh")
def sinh(x: Tensor) -> Tensor:
    return torch.sinh(x)


@op("sqrt")
def sqrt(x: Tensor) -> Tensor:
    return torch.sqrt(x)


@op("square")
def square(x: Tensor) -> Tensor:
    return torch.square(x)


@op("tan")
def tan(x: Tensor) -> Tensor:
    return torch.tan(x)


@op("tanh")
def tanh(x: Tensor) -> Tensor:
    return torch.tanh(x)


@op("threshold")
def threshold(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.maximum(x, alpha)
