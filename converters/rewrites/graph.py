"""The few things that every rewrite does to a graph of ATen operations. Importing this loads torch."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx import GraphModule, Node
from torch.utils._pytree import tree_map

ATEN = torch.ops.aten


def calls(module: GraphModule, *targets: Any) -> list[Node]:
    """All nodes that call one of the operations, in the order of the program."""
    wanted = set(targets)
    return [node for node in module.graph.nodes if node.op == "call_function" and node.target in wanted]


def is_call(node: Any, *targets: Any) -> bool:
    return isinstance(node, Node) and node.op == "call_function" and node.target in targets


def shares(node: Node) -> bool:
    """Whether what an operation gives may lie where what it was given first lies: a view, or what it wrote into."""
    if node.op != "call_function" or not isinstance(node.target, OpOverload):
        return False
    named = any(given.alias_info is not None for given in node.target._schema.returns)
    return named or "dropout" in str(node.target)  # which gives what it is given, in evaluation


def writes(node: Node) -> bool:
    """Whether an operation writes into what it is given."""
    return node.op == "call_function" and isinstance(node.target, OpOverload) and node.target._schema.is_mutable


def arguments(node: Node) -> dict[str, Any]:
    """A call's arguments by the names of the operation's schema, with what was left out."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    given = dict(zip((a.name for a in schema), node.args, strict=False)) | node.kwargs
    return {a.name: given.get(a.name, a.default_value if a.has_default_value() else None) for a in schema}


def say(node: Node, **changed: Any) -> None:
    """Have a call say all its arguments, some of them changed; for operations that take none by name alone."""
    node.args, node.kwargs = tuple((arguments(node) | changed).values()), {}


def value(node: Node) -> Tensor:
    """What a node gives, without numbers: shape and type."""
    return cast("Tensor", node.meta["val"])


def shape(node: Node) -> tuple[int, ...]:
    return tuple(value(node).shape)


def is_tensor(node: Any) -> bool:
    return isinstance(node, Node) and isinstance(node.meta.get("val"), Tensor)


def constant(module: GraphModule, node: Any) -> Tensor | None:
    """The parameter or buffer that a node stands for; None for any other node, and for none."""
    if not isinstance(node, Node) or node.op != "get_attr":
        return None
    found = operator.attrgetter(str(node.target))(module)
    return found.detach() if isinstance(found, Tensor) else None


def keep(module: GraphModule, before: Node, name: str, tensor: Tensor) -> Node:
    """A node for a new constant, in front of ``before``. Its name is to be no operation's, as exporters name those."""
    free = next(n for n in _numbered(name) if not hasattr(module, n))
    module.register_buffer(free, tensor.detach().contiguous())
    with module.graph.inserting_before(before):
        node = module.graph.get_attr(free)
    node.meta["val"] = fake_like(before, tensor)
    return node


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 1
    while True:
        yield f"{name}_{number}"
        number += 1


def fake_like(near: Node, tensor: Tensor) -> Tensor:
    """The tensor without its numbers, in the fake mode of the graph that ``near`` is in."""
    for node in near.graph.nodes:
        found = node.meta.get("val")
        if isinstance(found, FakeTensor):
            return found.fake_mode.from_tensor(tensor, static_shapes=True)
    return tensor.to("meta")


def call(before: Node, target: Callable[..., Any], *args: Any, **kwargs: Any) -> Node:
    """A new call in front of a node, with the shape of what it gives."""
    with before.graph.inserting_before(before):
        node = before.graph.call_function(target, args, kwargs)
    given = tree_map(lambda a: a.meta["val"] if isinstance(a, Node) else a, (args, kwargs))
    node.meta["val"] = target(*given[0], **given[1])
    return node


def replace(node: Node, by: Node) -> None:
    """Give all users of a node another one, and take the node away."""
    node.replace_all_uses_with(by)
    node.graph.erase_node(node)


def prune(module: GraphModule) -> None:
    """Take away nodes that nobody uses, and constants that no node stands for."""
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    used = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    for name in [n for n, _ in (*module.named_parameters(), *module.named_buffers()) if n not in used]:
        owner, _, leaf = name.rpartition(".")
        delattr(module.get_submodule(owner), leaf)
    module.recompile()


def wide(tensor: Tensor) -> Tensor:
    """In double precision, in which weights are combined so that only the result is rounded."""
    return tensor.double()
