"""Layers in integers in the form in which XNNPACK's partitioner takes them: it reads what the program says of them."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch.ao.quantization.fx import _decomposed  # noqa: F401, which defines the operations
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from lvexport.converters.compression import Quantized, is_product, recovered, weights
from lvexport.converters.contract import Integers
from lvexport.converters.derived import attach, constant, examples, rewritten
from lvexport.converters.patches import as_linear, matrix
from lvexport.converters.recipes import FLOATING
from lvexport.converters.rewrites.graph import arguments, prune

_QUANTIZED = torch.ops.quantized_decomposed
_ATEN = torch.ops.aten
_CONV, _LINEAR = _ATEN.conv2d.default, _ATEN.linear.default
_POINTWISE = (
    _ATEN.relu.default,
    _ATEN.silu.default,
    _ATEN.sigmoid.default,
    _ATEN.hardtanh.default,
    _ATEN.gelu.default,
    _ATEN.add.Tensor,
    _ATEN.mul.Tensor,
)
_FOUR = 4  # bits
_BLOCK = 32  # input channels: XNNPACK takes blocks of so many or a multiple of them (backends/xnnpack/operators)
_LOWEST, _HIGHEST = -128, 127  # of what a layer takes
# The smallest scale of an activation; XNNPACK has a smaller one, which only activations of no size would tell apart.
_LEAST = torch.finfo(torch.float32).eps


def with_integers(
    program: ExportedProgram, integers: Integers, convolutions: bool
) -> tuple[ExportedProgram, dict[int, int]]:
    """A program whose layers with rounded weights compute in integers, without ``convolutions`` the linear ones alone.

    How many numbers of weights have how many bits, too.
    """
    module = rewritten(program)
    counts = integer_layers(module, integers, convolutions)
    return torch.export.export(module, examples(program)), counts


def integer_layers(module: GraphModule, integers: Integers, convolutions: bool) -> dict[int, int]:
    """Write layers with rounded weights as layers of integers and of activations that are rounded as they come.

    Convolutions in groups stay in floating point, for which XNNPACK has no such kernels. How many numbers of weights
    have how many bits; those that stay floating have 32.
    """
    counts = Counter[int]()
    for weight in list(weights(module)):
        value = constant(module, weight)
        found = recovered(value, integers)
        layers = list(weight.users)
        if found is not None and becomes_linear(layers, integers, found):
            layers = [as_linear(layer) if layer.target is _CONV else layer for layer in layers]
        if found is None or any(stays(layer, convolutions) for layer in layers):
            counts[FLOATING] += value.numel()
            continue
        counts[found.bits] += value.numel()
        for layer in layers:
            if layer.target is _CONV and not is_channels_last(layer.args[0]):
                layer.update_arg(0, in_channels_last(module, layer))
            with module.graph.inserting_before(layer):
                layer.update_arg(0, rounded(layer))
                layer.update_arg(1, dequantized(module, layer, found))
    prune(module)
    return counts


def becomes_linear(layers: Sequence[Node], integers: Integers, found: Quantized) -> bool:
    """Whether layers are computed as linear ones: XNNPACK has no other kernels for 4 bits."""
    if integers.kernels is None or any(layer.target is _CONV and arguments(layer)["groups"] > 1 for layer in layers):
        return False
    return found.bits == _FOUR or all(map(is_product, layers))


def dequantized(module: GraphModule, layer: Node, found: Quantized) -> Node:
    """The weight of a layer as integers times scales, in the form that stands for their number of bits."""
    data = found.data
    if layer.target is _LINEAR:
        data = data if data.ndim == 2 else matrix(data)
    scale, blocks = found.scale.flatten(1), found.scale.shape[1]
    lowest, highest = (-8, 7) if found.bits == _FOUR else (-(2 ** (found.bits - 1)) + 1, 2 ** (found.bits - 1) - 1)
    kept = [getter(module, layer, "data", data)]
    if blocks > 1 or (found.bits == _FOUR and data.shape[1] % _BLOCK == 0):
        zero = torch.zeros_like(scale, dtype=torch.int64)
        kept += [getter(module, layer, "scale", scale), getter(module, layer, "zero", zero)]
        more = (lowest, highest, torch.int8, data.shape[1] // blocks, torch.float32)
        return layer.graph.call_function(_QUANTIZED.dequantize_per_channel_group.default, (*kept, *more))
    zero = torch.zeros(len(scale), dtype=torch.int64)
    kept += [getter(module, layer, "scale", scale.reshape(-1)), getter(module, layer, "zero", zero)]
    along = (0, lowest, highest, torch.int8)
    return layer.graph.call_function(_QUANTIZED.dequantize_per_channel.default, (*kept, *along))


def is_channels_last(node: Any) -> bool:
    """Whether ExecuTorch keeps a map in channels-last order for sure: what a convolution gave, and sums and curves."""
    if not isinstance(node, Node):
        return False
    if node.target in _POINTWISE:
        return all(map(is_channels_last, node.all_input_nodes))
    return node.target is _CONV


def in_channels_last(module: GraphModule, layer: Node) -> Node:
    """What a convolution takes, behind an operation that makes ExecuTorch 1.5.1 put it in channels-last order.

    Its pass that does so (backends/xnnpack/_passes/channels_last_tagged_reshape_pass.py, ``input_to_nhwc``) does it to
    what is rounded as it comes where the program begins, and with it to all that lies between. A PReLU of slope 1
    changes nothing, and is put in that order where it stands.
    """
    source = layer.args[0]
    assert isinstance(source, Node)
    ones = getter(module, layer, "slope", torch.ones(source.meta["val"].shape[1]))
    with module.graph.inserting_before(layer):
        kept = module.graph.call_function(_ATEN.prelu.default, (source, ones))
    kept.meta["val"] = source.meta["val"]
    return kept


def stays(layer: Node, convolutions: bool) -> bool:
    """Whether a layer is left in floating point."""
    return is_depthwise(layer) or (layer.target is _CONV and not convolutions)


def is_depthwise(layer: Node) -> bool:
    """Whether a convolution has one input channel for each output."""
    return layer.target is _CONV and layer.args[1].meta["val"].shape[1] == 1  # type: ignore[union-attr]


def getter(module: GraphModule, layer: Node, name: str, value: torch.Tensor) -> Node:
    """A constant, read where a layer is."""
    with module.graph.inserting_before(layer):
        return module.graph.get_attr(attach(module, f"{layer.name}_{name}", value.contiguous()))


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
