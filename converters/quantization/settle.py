"""The roundings that are on, written into the program as the operations that converters know.

Importing this loads torch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from lvexport.converters.contract import Integers
from lvexport.converters.quantization.grids import QUANTIZED, Grid
from lvexport.converters.quantization.switches import Rounding, Shift, Weight
from lvexport.converters.rewrites import layers
from lvexport.converters.rewrites.graph import ATEN, arguments, call, calls, constant, is_call, keep, prune, replace


def settle(module: GraphModule) -> GraphModule:
    """Put operations in place of a switchboard's switches: those that are on round, those that are off are gone."""
    _restore_shapes(module)
    rounded: dict[tuple[Node, Grid], Node] = {}
    for node in list(module.graph.nodes):
        if node.op != "call_module":
            continue
        switch = module.get_submodule(str(node.target))
        if isinstance(switch, Rounding):
            replace(node, _rounding(node, switch, rounded))
        elif isinstance(switch, Shift):
            replace(node, _shifted(module, node, switch))
        elif isinstance(switch, Weight):
            replace(node, _weight(module, node, switch))
    prune(module)
    return module


def _restore_shapes(module: GraphModule) -> None:
    """Switches give tensors like those that they are given."""
    for node in module.graph.nodes:
        if node.op == "call_module" and node.args:
            node.meta["val"] = node.args[0].meta["val"]


def _rounding(node: Node, switch: Rounding, rounded: dict[tuple[Node, Grid], Node]) -> Node:
    """What is rounded, once for all that take it rounded so; what is on the grid already is not rounded again."""
    source = node.args[0]
    assert isinstance(source, Node)
    if not switch.on:
        return source
    grid = switch.grid
    key = source, grid
    if any(of is source and on == grid for (_, on), of in rounded.items()):
        return source
    if key not in rounded:
        known = grid.arguments
        integers = call(node, QUANTIZED.quantize_per_tensor.default, source, *known)
        rounded[key] = call(node, QUANTIZED.dequantize_per_tensor.default, integers, *known)
    return rounded[key]


def _shifted(module: GraphModule, node: Node, switch: Shift) -> Node:
    """The layer, its bias having taken up the shift."""
    layer = node.args[0]
    assert isinstance(layer, Node)
    if switch.on and switch.by is not None:
        old = constant(module, arguments(layer)["bias"])
        bias = switch.by if old is None else old + switch.by
        layer.args = (*layer.args[:2], keep(module, layer, f"{layer.name}_bias", bias), *layer.args[3:])
    return layer


def _weight(module: GraphModule, node: Node, switch: Weight) -> Node:
    source = node.args[0]
    assert isinstance(source, Node)
    if not switch.on:
        return source
    return integer_weight(module, node, switch.quantized.data, switch.scales, switch.quantized.bits)


def integer_weight(module: GraphModule, before: Node, data: Tensor, scale: Tensor, bits: int = 8) -> Node:
    """The weight of ``data`` (O, …) times ``scale`` (O,), as constants and the product."""
    largest = Integers(bits).largest
    constants = [
        keep(module, before, f"{before.name}_integers", data),
        keep(module, before, f"{before.name}_scales", scale),
        keep(module, before, f"{before.name}_zeros", torch.zeros(len(scale), dtype=torch.int64)),
    ]
    return call(before, QUANTIZED.dequantize_per_channel.default, *constants, 0, -largest, largest, torch.int8)


def transitions(module: GraphModule) -> tuple[int, int]:
    """How many tensors go from floating point to integers, and how many back to operations in floating point."""
    into = [n for n in calls(module, QUANTIZED.quantize_per_tensor.default) if not _is_integer(n.args[0])]
    back = [n for n in calls(module, QUANTIZED.dequantize_per_tensor.default) if not all(map(_takes_integers, n.users))]
    return len(into), len(back)


def _takes_integers(user: Node) -> bool:
    return user.target is QUANTIZED.quantize_per_tensor.default or _is_integer(user)


def _is_integer(node: Any) -> bool:
    """Whether integers compute a node: a layer with what clips its output, a gate, or a tensor of integers as it is."""
    if is_call(node, *layers.CLIPS):
        node = node.args[0]
    reads = is_call(node, QUANTIZED.dequantize_per_tensor.default)
    return reads or _is_layer(node) or _is_gate(node) or _is_joined(node)


def _is_layer(node: Any) -> bool:
    weight = node.args[1] if is_call(node, *layers.LAYERS) else None
    return is_call(weight, QUANTIZED.dequantize_per_channel.default)


def _is_gate(node: Any) -> bool:
    """Whether a node is a sigmoid or a product of which every number, taken and given, is rounded."""
    return is_call(node, ATEN.sigmoid.default, ATEN.mul.Tensor) and is_between_roundings(node)


def _is_joined(node: Any) -> bool:
    """Whether a node concatenates what is on one grid."""
    if not is_call(node, ATEN.cat.default):
        return False
    taken = all(is_call(given, QUANTIZED.dequantize_per_tensor.default) for given in node.all_input_nodes)
    given = all(user.target is QUANTIZED.quantize_per_tensor.default for user in node.users)
    return taken and given and len({other.args[1:] for other in (*node.all_input_nodes, *node.users)}) == 1


def is_between_roundings(node: Node) -> bool:
    """Whether every number that an operation takes and gives is rounded."""
    taken = all(is_call(a, QUANTIZED.dequantize_per_tensor.default) for a in node.args)
    return taken and all(u.target is QUANTIZED.quantize_per_tensor.default for u in node.users)
