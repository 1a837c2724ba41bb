"""What depends on no input, computed once."""

from __future__ import annotations

import operator
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from lvexport.converters.rewrites.graph import (
    ATEN,
    arguments,
    calls,
    constant,
    is_call,
    keep,
    prune,
    shares,
    value,
    writes,
)


def fold_constants(module: GraphModule) -> None:
    """Put in numbers for everything that is computed from constants alone, such as positional biases.

    So are tensors that are filled place by place, as a mask may be, if nothing reads them before they are done. States,
    which are written into from one input to the next, are no constants.
    """
    known = _known(module)
    for node in calls(module, ATEN._assert_tensor_metadata.default):
        if node.args[0] in known:
            module.graph.erase_node(node)
    for node, tensor in known.items():
        given_on = any(user not in known for user in node.users)
        if node.op != "get_attr" and given_on and isinstance(tensor, Tensor):
            kept = keep(module, node, f"{node.name}_constant", tensor.clone())
            node.replace_all_uses_with(kept, delete_user_cb=lambda user: user not in known)
    for node in reversed(module.graph.nodes):  # what writes or might draw counts as wanted, whoever reads it
        if node in known and (writes(node) or not node.users):
            module.graph.erase_node(node)
    for node in calls(module, ATEN.add.Tensor, ATEN.sub.Tensor, ATEN.mul.Tensor, ATEN.div.Tensor):
        if value(node).is_floating_point():  # beside which a whole number would be a tensor of integers to be cast
            node.args = tuple(float(a) if isinstance(a, int) else a for a in node.args)
    prune(module)


def _known(module: GraphModule) -> dict[Node, Any]:
    """The nodes that depend on no input, and what they give when all that writes into it has: a tensor, or several."""
    writers: dict[Node, list[Node]] = {}
    for node in module.graph.nodes:
        if writes(node):
            writers.setdefault(_root(node), []).append(node)
    changing = {root for root in writers if root.op != "call_function"}
    while True:
        known = _evaluated(module, changing)
        found = {root for root, its in writers.items() if root not in changing and not _done(root, its, known)}
        if not found:
            return known
        changing |= found


def _done(root: Node, writers: list[Node], known: Collection[Node]) -> bool:
    """Whether all that writes into a tensor is known, and nothing unknown reads it, or a view of it, before that."""
    if not all(writer in known for writer in writers):
        return False
    shared = [node for node in root.graph.nodes if _root(node) is root]
    return all(user in known or writers[-1] < user for node in shared for user in node.users)


def _root(node: Node) -> Node:
    """Whose numbers a node gives, where it gives a view of another's, or what it wrote into."""
    while node.args and isinstance(node.args[0], Node) and (shares(node) or node.target is operator.getitem):
        node = node.args[0]
    return node


def _evaluated(module: GraphModule, changing: Collection[Node]) -> dict[Node, Any]:
    """What each node gives that depends on constants alone, and on nothing that changes."""
    known: dict[Node, Any] = {}
    for node in module.graph.nodes:
        if _root(node) not in changing:
            found = constant(module, node) if node.op == "get_attr" else _computed(node, known)
            if found is not None:
                known[node] = found
    return known


def _computed(node: Node, known: dict[Node, Any]) -> Any:
    """What an operation gives; None where that is not known, or no tensor."""
    target: Any = node.target
    if node.op != "call_function" or not (isinstance(target, OpOverload) or target is operator.getitem):
        return None
    if _draws(node) or any(source not in known for source in node.all_input_nodes):
        return None
    with torch.no_grad():
        args: Any = map_arg(node.args, known.__getitem__)
        found = target(*args, **map_arg(node.kwargs, known.__getitem__))
    parts = found if isinstance(found, tuple | list) else [found]
    return found if all(isinstance(part, Tensor) for part in parts) else None


def _draws(node: Node) -> bool:
    """Whether an operation gives something else each time."""
    if node.target is operator.getitem or torch.Tag.nondeterministic_seeded not in node.target.tags:  # type: ignore[union-attr]
        return False
    if is_call(node, ATEN.dropout.default):
        return bool(arguments(node)["train"])
    return not is_call(node, ATEN.scaled_dot_product_attention.default) or bool(arguments(node)["dropout_p"])
