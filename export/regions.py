"""Regions of a captured program in which torch was told how to compute, and which a device computes as all else.

``with torch.autocast(enabled=False)`` around a part of a model becomes an operation with a program of its own, into
which neither rewrites nor converters look. Importing this loads torch.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

# What stands before the region's program in the arguments (torch/_higher_order_ops/wrap.py).
_SETTINGS = {
    torch.ops.higher_order.wrap_with_autocast: ("device_type", "dtype", "enabled", "cache_enabled"),
    torch.ops.higher_order.wrap_with_set_grad_enabled: ("enabled",),
}


def without_regions(program: ExportedProgram, inputs: tuple[Tensor, ...]) -> ExportedProgram:
    """The same program with such regions taken in; the same object where there are none."""
    if not any(_changes_nothing(node) for node in program.graph.nodes):
        return program
    module = program.module()
    assert isinstance(module, GraphModule)
    while found := [node for node in module.graph.nodes if _changes_nothing(node)]:
        for node in found:
            _take_in(module, node)
    module.recompile()
    return torch.export.export(module, inputs)


def _changes_nothing(node: Node) -> bool:
    """Whether a node is a region that computes what it would outside: not one in which types are chosen by autocast."""
    if node.op != "call_function" or node.target not in _SETTINGS:
        return False
    names = _SETTINGS[node.target]
    return "dtype" not in names or not node.args[names.index("enabled")]


def _take_in(module: GraphModule, node: Node) -> None:
    """Put a region's operations in the place of the node."""
    place = len(_SETTINGS[node.target])  # type: ignore[index]
    region: Any = node.args[place]
    inner = module.get_submodule(region.target)
    assert isinstance(inner, GraphModule)
    given = dict(zip(inner.graph.find_nodes(op="placeholder"), node.args[place + 1 :], strict=True))
    for own in inner.graph.find_nodes(op="get_attr"):
        own.target = f"{region.target}.{own.target}"
    with module.graph.inserting_before(node):
        results: Any = module.graph.graph_copy(inner.graph, given)
    if isinstance(results, Node):
        node.replace_all_uses_with(results)
    else:
        for user in list(node.users):
            assert user.target is operator.getitem
            user.replace_all_uses_with(results[user.args[1]])
            module.graph.erase_node(user)
    module.graph.erase_node(node)
    if not region.users:
        module.graph.erase_node(region)
