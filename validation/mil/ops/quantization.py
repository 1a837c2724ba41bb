"""Affine quantization of activations (``iOS17/quantization_ops.py``)."""

from __future__ import annotations

import torch
from torch import Tensor

from lvexport.validation.mil.call import Call
from lvexport.validation.mil.numerics import CARRIERS
from lvexport.validation.mil.program import Opset
from lvexport.validation.mil.table import op


@op("quantize", since=Opset.IOS17)
def quantize(
    input: Tensor,  # noqa: A002 - the operation's own name for it
    scale: Tensor,
    output_dtype: str,
    call: Call,
    zero_point: Tensor | None = None,
    axis: int | None = None,
) -> Tensor:
    """clip(round(input / scale) + zero_point) to the range of int8 or uint8; halves go to even."""
    if output_dtype != call.dtype.name:
        raise ValueError(f"the result is declared as {call.dtype.name} and output_dtype is {output_dtype!r}")
    limits = torch.iinfo(CARRIERS[call.dtype])
    steps = torch.round(input / along(scale, input, axis))
    if zero_point is not None:
        steps = steps + along(zero_point, input, axis)
    return steps.clamp(limits.min, limits.max).to(CARRIERS[call.dtype])


@op("dequantize", since=Opset.IOS17)
def dequantize(
    input: Tensor,  # noqa: A002 - the operation's own name for it
    scale: Tensor,
    zero_point: Tensor | None = None,
    axis: int | None = None,
) -> Tensor:
    """scale · (input - zero_point), the difference taken without wrapping around."""
    steps = input.to(scale.dtype)
    if zero_point is not None:
        steps = steps - along(zero_point, input, axis)
    return along(scale, input, axis) * steps


def along(parameter: Tensor, data: Tensor, axis: int | None) -> Tensor:
    """A scalar as it is, a vector in the shape that broadcasts it along ``axis`` of ``data``."""
    if parameter.ndim == 0 or axis is None:
        return parameter
    return parameter.reshape([-1 if dim == axis % data.ndim else 1 for dim in range(data.ndim)])
