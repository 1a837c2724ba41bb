"""The roundings that are on, written into the program as the operations that converters know.

Importing this loads torch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.ao.quantization.fx import _decomposed  # noqa: F401  registers the operations
from torch.fx import GraphModule, Node

from lvexport.converters.quantization.grids import Grid
from lvexport.converters.quantization.switches import Rounding, Shift, Switchboard, Weight
from lvexport.converters.rewrites import layers
from lvexport.converters.rewrites.graph import arguments, call, calls, constant, is_call, keep, prune, replace

QUANTIZED = torch.ops.quantized_decomposed


def settle(board: Switchboard) -> GraphModule:
    """Put operations in place of switches: those that are on round, those that are off are gone."""
    module = board.module
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
        known = (grid.scale, grid.zero_point, grid.lowest, grid.highest, grid.dtype)
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
    return integer_weight(module, node, switch.quantized.data, switch.scales)


def integer_weight(module: GraphModule, before: Node, data: Tensor, scale: Tensor) -> Node:
    """The weight of ``data`` (O, …) times ``scale`` (O,), as constants and the product."""
    constants = [
        keep(module, before, f"{before.name}_integers", data),
        keep(module, before, f"{before.name}_scales", scale),
        keep(module, before, f"{before.name}_zeros", torch.zeros(len(scale), dtype=torch.int64)),
    ]
    return call(before, QUANTIZED.dequantize_per_channel.default, *constants, 0, -127, 127, torch.int8)


def transitions(module: GraphModule) -> tuple[int, int]:
    """How many tensors go from floating point to integers, and how many back to operations in floating point."""
    into = calls(module, QUANTIZED.quantize_per_tensor.default)
    back = [n for n in calls(module, QUANTIZED.dequantize_per_tensor.default) if any(map(_is_floating, n.users))]
    return sum(node.args[0].target is not QUANTIZED.dequantize_per_tensor.default for node in into), len(back)  # type: ignore[union-attr]


def _is_floating(user: Node) -> bool:
    """Whether a user of a tensor is no layer that integers compute."""
    if user.target is QUANTIZED.quantize_per_tensor.default:
        return False
    weight = user.args[1] if is_call(user, *layers.LAYERS) else None
    return not (isinstance(weight, Node) and weight.target is QUANTIZED.dequantize_per_channel.default)
