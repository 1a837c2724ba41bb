"""How many roundings stand one behind the other in a program, which is what its verdict's threshold follows from."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node

ATEN = torch.ops.aten

# What they give are numbers that they were given (besides views, which torch knows): nothing is rounded.
EXACT = {
    ATEN.cat,
    ATEN.clone,
    ATEN.constant_pad_nd,
    ATEN.contiguous,
    ATEN.dropout,
    ATEN.gather,
    ATEN.index,
    ATEN.index_select,
    ATEN.max_pool2d,
    ATEN.maximum,
    ATEN.minimum,
    ATEN.pad,
    ATEN.relu,
    ATEN.repeat,
    ATEN.reshape,
    ATEN.stack,
    ATEN.where,
}
# Folded into the convolution before it by every converter.
FOLDED = {ATEN.batch_norm}
UNROUNDED = EXACT | FOLDED


def depth(program: ExportedProgram) -> int:
    """The longest chain of operations of which each rounds its result."""
    reached: dict[Node, int] = {}
    for node in program.graph.nodes:
        before = max((reached[source] for source in node.all_input_nodes), default=0)
        reached[node] = before + rounds(node)
    return max(reached.values(), default=0)


def rounds(node: Node) -> bool:
    """Whether a node's result is a rounded floating-point number."""
    value = node.meta.get("val")
    if node.op != "call_function" or not isinstance(value, Tensor) or not value.is_floating_point():
        return False
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    return not node.target.is_view and node.target.overloadpacket not in UNROUNDED
