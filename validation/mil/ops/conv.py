"""Convolutions over 1 to 3 spatial dimensions (``iOS15/conv.py``, ``iOS17/conv.py``)."""

from __future__ import annotations

from torch import Tensor

from lvexport.validation.mil.call import Call
from lvexport.validation.mil.ops.windows import along_axis, pad_pairs, pad_spatial, per_axis
from lvexport.validation.mil.table import op


@op("conv")
def conv(
    x: Tensor,
    weight: Tensor,
    call: Call,
    bias: Tensor | None = None,
    strides: tuple[int, ...] | None = None,
    pad_type: str = "valid",
    pad: tuple[int, ...] | None = None,
    dilations: tuple[int, ...] | None = None,
    groups: int = 1,
) -> Tensor:
    """x [n, C_in, *D_in], weight [C_out, C_in/groups, *K] → [n, C_out, *D_out]."""
    rank = x.ndim - 2
    strides, dilations = per_axis(strides, rank, 1), per_axis(dilations, rank, 1)
    axes = [
        along_axis(size, kernel, stride, dilation, pad_type, pads)
        for size, kernel, stride, dilation, pads in zip(
            x.shape[2:], weight.shape[2:], strides, dilations, pad_pairs(pad, rank), strict=True
        )
    ]
    call.expect((x.shape[0], weight.shape[0], *(axis.count for axis in axes)))
    if all(axis.before == axis.after for axis in axes):
        padding = tuple(axis.before for axis in axes)
    else:
        x, padding = pad_spatial(x, [(axis.before, axis.after) for axis in axes], 0.0), (0,) * rank
    return call.sums.convolved(x, weight, bias, strides, padding, dilations, groups)


@op("conv_quantized")
def conv_quantized(
    x: Tensor,
    weight: Tensor,
    quantization_type: str,
    quant_scale: Tensor,
    quant_bias: Tensor,
    call: Call,
    bias: Tensor | None = None,
    nbits: int = 8,
    strides: tuple[int, ...] | None = None,
    pad_type: str = "valid",
    pad: tuple[int, ...] | None = None,
    dilations: tuple[int, ...] | None = None,
    groups: int = 1,
) -> Tensor:
    """As ``conv``, with weights quant_scale · weight + quant_bias; scale and bias are one or C_out numbers."""
    if quantization_type != "linear":
        # Nor has the operation a parameter for the table that the type ``lut`` would need.
        raise NotImplementedError(f"conv_quantized of type {quantization_type!r} is not documented")
    shape = (-1, *([1] * (weight.ndim - 1)))
    weight = weight.to(x.dtype) * quant_scale.reshape(shape) + quant_bias.reshape(shape)
    bias = None if bias is None else bias.to(x.dtype)
    return conv(x, weight, call, bias, strides, pad_type, pad, dilations, groups)


@op("conv_transpose")
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    call: Call,
    bias: Tensor | None = None,
    strides: tuple[int, ...] | None = None,
    pad_type: str = "valid",
    pad: tuple[int, ...] | None = None,
    dilations: tuple[int, ...] | None = None,
    groups: int = 1,
    output_shape: tuple[int, ...] | None = None,
) -> Tensor:
    """x [n, C_in, *D_in], weight [C_in, C_out/groups, *K] → [n, C_out, *D_out].

    The padding is what the convolution that this one reverses would add, so it is cut off here.
    """
    rank = x.ndim - 2
    strides, dilations = per_axis(strides, rank, 1), per_axis(dilations, rank, 1)
    full = [
        (size - 1) * stride + (kernel - 1) * dilation + 1
        for size, kernel, stride, dilation in zip(x.shape[2:], weight.shape[2:], strides, dilations, strict=True)
    ]
    wanted = None if output_shape is None else output_shape[2:]
    cuts = _cuts(full, tuple(x.shape[2:]), strides, pad_type, pad_pairs(pad, rank), wanted)
    sizes = [size - before - after for size, (before, after) in zip(full, cuts, strict=True)]
    call.expect((x.shape[0], weight.shape[1] * groups, *sizes))
    whole = call.sums.spread(x, weight, strides, dilations, groups)
    # A negative pad cuts; where the result is larger than what the windows reach, it is zero before the bias.
    cut = pad_spatial(whole, [(-before, -after) for before, after in cuts], 0.0)
    return cut if bias is None else cut + bias.reshape(-1, *([1] * rank))


def _cuts(
    full: list[int],
    sizes: tuple[int, ...],
    strides: tuple[int, ...],
    pad_type: str,
    pads: tuple[tuple[int, int], ...],
    wanted: tuple[int, ...] | None,
) -> list[tuple[int, int]]:
    """How much is cut off before and after each axis; a negative number extends it."""
    if pad_type == "valid":
        cuts = [(0, 0)] * len(full)
    elif pad_type == "custom":
        cuts = list(pads)
    elif pad_type == "same":
        targets = wanted or tuple(size * stride for size, stride in zip(sizes, strides, strict=True))
        cuts = [
            (max(0, whole - target) // 2, max(0, whole - target) - max(0, whole - target) // 2)
            for whole, target in zip(full, targets, strict=True)
        ]
        wanted = targets
    else:
        raise ValueError(f"there is no pad_type {pad_type!r}")
    if wanted is not None:
        cuts = [(before, whole - before - size) for whole, (before, _), size in zip(full, cuts, wanted, strict=True)]
    return cuts
