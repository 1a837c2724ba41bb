"""Programs in half precision, but for what loses its digits there. Importing this loads torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from lvexport.converters.derived import examples, follow, rewritten
from lvexport.converters.rewrites.constants import fold_constants
from lvexport.converters.rewrites.graph import ATEN, call, calls, constant, keep
from lvexport.converters.rewrites.norms import fold_batch_norms

NORMS = (ATEN.layer_norm.default, ATEN.group_norm.default, ATEN.linalg_vector_norm.default)
# What may stand between a square and the root of a mean or sum of squares, each taking that as its first argument.
_ON_THE_WAY = (
    ATEN.linear.default,
    ATEN.conv2d.default,
    ATEN.mean.dim,
    ATEN.sum.dim_IntList,
    ATEN.add.Tensor,
    ATEN.reshape.default,
    ATEN.view.default,
)


class _Half(nn.Module):
    """A program in half precision behind single-precision inputs and outputs."""

    def __init__(self, module: GraphModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs = self.module(*(x.half() if x.is_floating_point() else x for x in inputs))
        outputs = (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
        return tuple(y.float() if y.is_floating_point() else y for y in outputs)


def halve(program: ExportedProgram, wide: Sequence[Any] = ()) -> ExportedProgram:
    """The same program with weights and arithmetic in half precision; inputs and outputs keep their types.

    Batch normalisation is folded into convolutions while both are in single precision: folded in half, every channel's
    factor would be rounded, and such errors do not average out. Normalisation is computed in single precision between
    casts, also where it is written out, for it sums squares over the width or more, which leave the range of half
    precision; and so are the operations ``wide``. What depends on no input, as encodings of positions do, is computed
    in single precision here.
    """
    module = rewritten(program, fold_constants, fold_batch_norms, _halve_types)
    constants = _widen(module, {*calls(module, *NORMS, *wide), *_spelled_norms(module)})
    module.half()
    for name, value in constants.items():
        module.register_buffer(name, value)
    module.recompile()
    return torch.export.export(_Half(module), examples(program))


def _halve_types(module: GraphModule) -> None:
    """Have what asks for another floating-point type by name ask for half precision, and no node insist on a type."""
    for node in calls(module, ATEN._assert_tensor_metadata.default):
        module.graph.erase_node(node)
    for node in module.graph.nodes:
        if node.op == "call_function":
            node.args = tuple(map(_narrow, node.args))
            node.kwargs = {name: _narrow(value) for name, value in node.kwargs.items()}


def _narrow(argument: Any) -> Any:
    return torch.float16 if isinstance(argument, torch.dtype) and argument.is_floating_point else argument


def _spelled_norms(module: GraphModule) -> Iterator[Node]:
    """All nodes of norms, and of what multiplies something by the inverse root of its mean square, centred or not."""
    for root in calls(module, ATEN.rsqrt.default, ATEN.sqrt.default):
        way = _way(root)
        square = way[-1]
        if not _is_square(square):
            continue
        x = square.args[0]
        yield from way
        yield from _centring(x)
        yield from (user for user in root.users if user.target is ATEN.mul.Tensor and x in user.args)


def _way(node: Any) -> list[Node]:
    """A node, what it takes first, and so on, up to the first that is none of those on the way."""
    found = [node]
    while found[-1].args and isinstance(found[-1].args[0], Node):
        found.append(found[-1].args[0])
        if found[-1].target not in _ON_THE_WAY:
            break
    return found


def _is_square(node: Node) -> bool:
    if node.target is ATEN.pow.Tensor_Scalar:
        return bool(node.args[1] == 2)
    return node.target is ATEN.mul.Tensor and node.args[0] is node.args[1]


def _centring(x: Any) -> list[Node]:
    """The nodes that take the mean from something, where ``x`` is what is left."""
    if not isinstance(x, Node) or x.target is not ATEN.sub.Tensor or not isinstance(x.args[1], Node):
        return []
    *way, source = _way(x.args[1])
    return [x, *way] if source is x.args[0] else []


def _widen(module: GraphModule, wide: set[Node]) -> dict[str, Tensor]:
    """Put casts around nodes that stay in single precision; the constants that they alone take, by name."""
    constants: dict[str, Tensor] = {}
    for node in sorted(wide):
        for given in node.all_input_nodes:
            if given not in wide and given.meta["val"].is_floating_point():
                node.replace_input_with(given, _single(module, node, given, constants))
    for node in wide:
        if any(user not in wide for user in node.users):
            follow(node, ATEN.to.dtype, torch.float16, spared=wide)
    return constants


def _single(module: GraphModule, node: Node, given: Node, constants: dict[str, Tensor]) -> Node:
    """What a node is given, in single precision; of a constant a copy, which goes into ``constants``."""
    value = constant(module, given)
    if value is None:
        return call(node, ATEN.to.dtype, given, torch.float32)
    copy = keep(module, node, f"{given.name}_single", value)
    constants[str(copy.target)] = value
    return copy
