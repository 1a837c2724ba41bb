"""A captured program in the plain operations that rewrites and converters look for.

``nn.ReLU(inplace=True)`` is captured as an operation that writes into what it is given, which nothing knows as ReLU,
and ``with torch.autocast(enabled=False)`` around a part of a model as one with a program of its own, into which nothing
looks. What ``nn.RMSNorm`` adds is left to the precision that it is computed in, which need not be the original's.
Importing this loads torch.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.utils._pytree import tree_map

from lvexport.converters.rewrites.graph import ATEN, arguments, is_call, say, shares, writes
from lvexport.converters.rewrites.norms import epsilon

# What stands before the region's program in the arguments (torch/_higher_order_ops/wrap.py).
_SETTINGS = {
    torch.ops.higher_order.wrap_with_autocast: ("device_type", "dtype", "enabled", "cache_enabled"),
    torch.ops.higher_order.wrap_with_set_grad_enabled: ("enabled",),
}


def plain(program: ExportedProgram, inputs: tuple[Tensor, ...]) -> ExportedProgram:
    """The same program without these; itself where it has none."""
    if not any(_changes_nothing(node) or _writes(node) or _leaves_open(node) for node in program.graph.nodes):
        return program
    module = program.module()
    assert isinstance(module, GraphModule)
    while found := [node for node in module.graph.nodes if _changes_nothing(node)]:
        for node in found:
            _take_in(module, node)
    for node in list(module.graph.nodes):
        if _writes(node):
            _give(node)
        elif _leaves_open(node):
            say(node, eps=epsilon(node))
    module.recompile()
    return torch.export.export(module, inputs)


def _leaves_open(node: Node) -> bool:
    return is_call(node, ATEN.rms_norm.default) and arguments(node)["eps"] is None


def _writes(node: Node) -> bool:
    """Whether a node writes into what another made and nothing else shares, and could give that instead."""
    if not writes(node):
        return False
    written = node.args[0] if node.args else None
    if not isinstance(written, Node) or written.op != "call_function" or not _gives_alike(node):
        return False
    shared = _may_share(_owner(written)) or any(user < node and _may_share(user) for user in written.users)
    return not shared and not any(a is written for a in (*node.args[1:], *node.kwargs.values()))


def _owner(node: Node) -> Node:
    """The tensor that a node is a view of, as far as nothing else takes it: where it lies, only the views are read."""
    source = node.args[0] if shares(node) else None
    while isinstance(source, Node) and source.op == "call_function" and len(source.users) == 1:
        node, source = source, source.args[0] if shares(source) else None
    return node


def _giving(operation: OpOverload) -> OpOverload | None:
    """The operation that gives what this one writes into its first argument."""
    name = operation._schema.name.partition("::")[2]
    packet = getattr(torch.ops.aten, name.removesuffix("_"), None) if name.endswith("_") else None
    found: Any = getattr(packet, operation._overloadname, None)
    same = found is not None and len(found._schema.arguments) == len(operation._schema.arguments)
    return found if same and not found._schema.is_mutable else None


def _gives_alike(node: Node) -> bool:
    """Whether there is such an operation for a node, and it gives numbers of the same type and shape."""
    giving = _giving(node.target)  # type: ignore[arg-type]
    if giving is None:
        return False
    args, kwargs = tree_map(lambda a: a.meta["val"] if isinstance(a, Node) else a, (node.args, node.kwargs))
    found, own = giving(*args, **kwargs), node.meta["val"]
    return bool(found.dtype == own.dtype and found.shape == own.shape)


def _may_share(node: Node) -> bool:
    """Whether what a node gives may lie where another's numbers lie: of what is no operation of torch, who knows."""
    return node.op != "call_function" or not isinstance(node.target, OpOverload) or shares(node)


def _give(node: Node) -> None:
    """Have all that reads what was written into, from there on, read what a node gives in its place."""
    written: Any = node.args[0]
    giving = _giving(node.target)  # type: ignore[arg-type]
    assert giving is not None
    node.target = giving
    for user in list(written.users):
        if node < user:
            user.replace_input_with(written, node)


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
