"""Layers in integers in the form in which XNNPACK's partitioner takes them: it reads what the program says of them."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch.ao.quantization.fx import _decomposed  # noqa: F401, which defines the operations
from torch.fx import GraphModule, Node

from lvexport.converters.compression import recovered, weights
from lvexport.converters.contract import Integers
from lvexport.converters.derived import attach, constant
from lvexport.converters.rewrites.graph import prune

_QUANTIZED = torch.ops.quantized_decomposed
_CONV = torch.ops.aten.conv2d.default
_LOWEST, _HIGHEST = -128, 127  # of what a layer takes
# The smallest scale of an activation; XNNPACK has a smaller one, which only activations of no size would tell apart.
_LEAST = torch.finfo(torch.float32).eps


def integer_layers(module: GraphModule, integers: Integers, convolutions: bool) -> int:
    """Write layers with rounded weights as layers of integers and of activations that are rounded as they come.

    Depthwise convolutions stay in floating point, for which XNNPACK has no such kernels. How many are written.
    """
    count = 0
    for weight in list(weights(module)):
        layers = list(weight.users)
        found = recovered(constant(module, weight), integers)
        if found is None or any(stays(layer, convolutions) for layer in layers):
            continue
        data, scale, zero = (
            getter(module, weight, f"{weight.name}_{name}", value)
            for name, value in (
                ("data", found.data),
                ("scale", found.scale.reshape(-1)),
                ("zero", torch.zeros(len(found.scale), dtype=torch.int64)),
            )
        )
        for layer in layers:
            given = (data, scale, zero, 0, -integers.largest, integers.largest, torch.int8)
            with module.graph.inserting_before(layer):
                layer.update_arg(0, rounded(layer))
                layer.update_arg(1, module.graph.call_function(_QUANTIZED.dequantize_per_channel.default, given))
            count += 1
    prune(module)
    return count


def stays(layer: Node, convolutions: bool) -> bool:
    """Whether a layer is left in floating point."""
    return is_depthwise(layer) or (layer.target is _CONV and not convolutions)


def is_depthwise(layer: Node) -> bool:
    """Whether a convolution has one input channel for each output."""
    return layer.target is _CONV and layer.args[1].meta["val"].shape[1] == 1  # type: ignore[union-attr]


def getter(module: GraphModule, weight: Node, name: str, value: torch.Tensor) -> Node:
    """A constant, read where the weight is."""
    with module.graph.inserting_before(weight):
        return module.graph.get_attr(attach(module, name, value))


def rounded(layer: Node) -> Node:
    """What a layer takes, rounded: maps as a whole, rows of a linear layer each by itself."""
    call, x = layer.graph.call_function, layer.args[0]
    if layer.target is _CONV:
        chosen = call(_QUANTIZED.choose_qparams.tensor, (x, _LOWEST, _HIGHEST, _LEAST, torch.int8))
        quantize, dequantize = _QUANTIZED.quantize_per_tensor.tensor, _QUANTIZED.dequantize_per_tensor.tensor
        kind: tuple[Any, ...] = ()
    else:
        chosen = call(_QUANTIZED.choose_qparams_per_token_asymmetric.default, (x, torch.int8))
        quantize, dequantize = _QUANTIZED.quantize_per_token.default, _QUANTIZED.dequantize_per_token.default
        kind = (torch.float32,)
    scale, zero = (call(operator.getitem, (chosen, i)) for i in range(2))
    range_ = (scale, zero, _LOWEST, _HIGHEST, torch.int8)
    return call(dequantize, (call(quantize, (x, *range_)), *range_, *kind))
