"""What depends on no input, computed once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from lvexport.converters.rewrites.graph import ATEN, calls, constant, keep, prune, replace, value


def fold_constants(module: GraphModule) -> None:
    """Put in numbers for everything that is computed from constants alone, such as positional biases."""
    known: dict[Node, Tensor] = {}
    for node in list(module.graph.nodes):
        found = constant(module, node) if node.op == "get_attr" else _computed(node, known)
        if found is not None:
            known[node] = found
    for node in calls(module, ATEN._assert_tensor_metadata.default):
        if node.args[0] in known:
            module.graph.erase_node(node)
    for node, tensor in known.items():
        if node.op != "get_attr" and any(user not in known for user in node.users):
            replace(node, keep(module, node, node.name, tensor))
    for node in calls(module, ATEN.add.Tensor, ATEN.sub.Tensor, ATEN.mul.Tensor, ATEN.div.Tensor):
        if value(node).is_floating_point():  # beside which a whole number would be a tensor of integers to be cast
            node.args = tuple(float(a) if isinstance(a, int) else a for a in node.args)
    prune(module)


def _computed(node: Node, known: dict[Node, Tensor]) -> Tensor | None:
    """What a node gives, where that is a tensor that depends on constants alone."""
    target: Any = node.target
    if node.op != "call_function" or not isinstance(target, torch._ops.OpOverload):
        return None
    if torch.Tag.nondeterministic_seeded in target.tags or target._schema.is_mutable:
        return None
    if any(source not in known for source in node.all_input_nodes):
        return None
    with torch.no_grad():
        found = target(*map_arg(node.args, known.__getitem__), **map_arg(node.kwargs, known.__getitem__))
    return found if isinstance(found, Tensor) else None
