"""A program with roundings in the forms that converters take. Importing this loads torch."""

from __future__ import annotations

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from lvexport.converters.contract import Integers
from lvexport.converters.derived import examples, rewritten
from lvexport.converters.quantization.grids import QUANTIZED
from lvexport.converters.quantization.sites import output
from lvexport.converters.rewrites.graph import (
    ATEN,
    arguments,
    call,
    calls,
    constant,
    is_call,
    keep,
    prune,
    replace,
    shape,
)
from lvexport.converters.rewrites.layers import LAYERS, column
from lvexport.converters.rewrites.single_rows import is_over_single_rows, spell_single_rows

_LARGEST = Integers(8).largest


def with_float_weights(program: ExportedProgram) -> GraphModule:
    """Integer weights as numbers that are rounded to the same integers, for converters that make these themselves.

    A module, for such a converter captures it itself.

    Each operation reads its own numbers off the grid, as :func:`with_own_reading` has it: litert-torch moves transposes
    past these conversions, and fails where one serves operations of several layouts.
    """
    return rewritten(program, flatten_single_rows, _float_weights, own_reading)


def _float_weights(module: GraphModule) -> None:
    for node in calls(module, QUANTIZED.dequantize_per_channel.default):
        number = _numbers(module, node)
        assert number is not None
        grid = (*node.args[1:4], -_LARGEST, _LARGEST, torch.int8)  # that of 8 bits, on which fewer lie too
        node.args = (call(node, QUANTIZED.quantize_per_channel.default, number, *grid), *grid)
    prune(module)


def _numbers(module: GraphModule, reading: Node) -> Node | None:
    """What the integers of a weight stand for, as a new constant; None where they are none."""
    data, scale = constant(module, reading.args[0]), constant(module, reading.args[1])
    if data is None or scale is None:
        return None
    return keep(module, reading, f"{reading.name}_numbers", data * column(scale, data))


def bits(reading: Node) -> int:
    """How many bits the integers of a weight have, from the largest that its ``dequantize_per_channel`` names."""
    largest = reading.args[5]
    assert isinstance(largest, int)
    return (largest + 1).bit_length()


def with_narrow_numbers(program: ExportedProgram) -> ExportedProgram:
    """Weights of 4 bits as whole multiples of their scales, for converters that make these integers themselves."""

    def spell(module: GraphModule) -> None:
        for node in calls(module, QUANTIZED.dequantize_per_channel.default):
            number = _numbers(module, node) if bits(node) == 4 else None
            if number is not None:
                replace(node, number)
        prune(module)

    return torch.export.export(rewritten(program, spell), examples(program))


def with_flat_layers(program: ExportedProgram) -> ExportedProgram:
    """Linear layers over a matrix each, which is what runtimes have integer kernels for.

    It is whole numbers that are reshaped, so that each layer stays between its roundings.
    """
    return torch.export.export(rewritten(program, flatten_layers), examples(program))


def flatten_layers(module: GraphModule) -> None:
    for node in calls(module, ATEN.linear.default):
        if len(shape(arguments(node)["input"])) != 2:
            _flatten(node)
    prune(module)


def flatten_single_rows(module: GraphModule) -> None:
    """Layers over single rows as convolutions where their weights are constants, else over a matrix each.

    There it is numbers that are reshaped, between roundings of their own: LiteRT's converter fails on integers.
    """
    spell_single_rows(module)
    for node in filter(is_over_single_rows, calls(module, ATEN.linear.default)):
        source: Node = node.args[0]  # type: ignore[assignment]
        flat = call(node, ATEN.reshape.default, source, [-1, shape(source)[-1]])
        layer, last = _over(_again(flat, source, node), node)
        rounding = next(iter(last.users), None)
        if rounding is not None and rounding.target is QUANTIZED.quantize_per_tensor.default:
            layer = call(last, QUANTIZED.quantize_per_tensor.default, layer, *rounding.args[1:])
            layer = call(last, QUANTIZED.dequantize_per_tensor.default, layer, *rounding.args[1:])
        replace(last, call(last, ATEN.reshape.default, layer, list(shape(last))))
    prune(module)


def _over(flat: Node, node: Node) -> tuple[Node, Node]:
    """A linear layer over a matrix, with what clips it, and what it stands for: the last node of the old one."""
    layer, last = call(node, ATEN.linear.default, flat, *node.args[1:]), output(node)
    if last is not node:
        layer = call(last, last.target, layer, *last.args[1:])  # type: ignore[arg-type]
    return layer, last


def _again(view: Node, source: Node, before: Node) -> Node:
    """A view of what was rounded, rounded like it."""
    if source.target is not QUANTIZED.dequantize_per_tensor.default:
        return view
    integers = call(before, QUANTIZED.quantize_per_tensor.default, view, *source.args[1:])
    return call(before, QUANTIZED.dequantize_per_tensor.default, integers, *source.args[1:])


def _flatten(node: Node) -> None:
    """Write a linear layer over a matrix, with views around it and what rounds."""
    source = node.args[0]
    assert isinstance(source, Node)
    wide = [-1, shape(source)[-1]]
    if source.target is QUANTIZED.dequantize_per_tensor.default:
        flat = call(node, ATEN.reshape.default, source.args[0], wide)
        flat = call(node, source.target, flat, *source.args[1:])
    else:
        flat = call(node, ATEN.reshape.default, source, wide)
    layer, last = _over(flat, node)
    for user in [u for u in last.users if u.target is QUANTIZED.quantize_per_tensor.default]:
        integers = call(user, user.target, layer, *user.args[1:])  # type: ignore[arg-type]
        replace(user, call(user, ATEN.reshape.default, integers, list(shape(last))))
    replace(last, call(last, ATEN.reshape.default, layer, list(shape(last))))


def with_own_reading(program: ExportedProgram) -> ExportedProgram:
    """Integers made floating-point numbers anew for each operation that takes them.

    XNNPACK's partitioner makes that conversion part of the operation behind it, and of all others that share it
    (executorch/backends/xnnpack/operators/quant_params.py, ``from_inputs``), also of those that take other numbers. It
    writes a bias once, in steps of the first layer that has it.
    """
    return torch.export.export(rewritten(program, own_reading, own_biases), examples(program))


def own_biases(module: GraphModule) -> None:
    """Give each layer of integers a bias that no other has."""
    taken: set[str] = set()
    for layer in calls(module, *LAYERS):
        bias = arguments(layer)["bias"]
        numbers = constant(module, bias)
        if numbers is None or not is_call(layer.args[1], QUANTIZED.dequantize_per_channel.default):
            continue
        if bias.target in taken:
            layer.update_arg(2, keep(module, layer, f"{layer.name}_bias", numbers.clone()))
        taken.add(bias.target)
    prune(module)


def own_reading(module: GraphModule) -> None:
    for node in calls(module, QUANTIZED.dequantize_per_tensor.default):
        for user in list(node.users)[1:]:
            user.replace_input_with(node, call(user, node.target, *node.args))  # type: ignore[arg-type]
