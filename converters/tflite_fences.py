"""What lies between layers and is in floating point, kept there. Importing this loads torch.

Where an operation gives numbers that it was given, such as a maximum, LiteRT's converter takes all of them to the grid
of one that was rounded: a class token beside patches is clipped to the patches' range. It leaves numbers alone that
come from or go to an operator that has no kernel for integers. So one is put between, and taken out of the model again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from ai_edge_litert import schema_py_generated as schema
from torch.fx import GraphModule, Node

from lvexport.converters import tflite_edits as edits
from lvexport.converters.contract import ConversionError
from lvexport.converters.quantization.grids import QUANTIZED
from lvexport.converters.rewrites import axes, layers
from lvexport.converters.rewrites.graph import ATEN, call, calls, is_call

# Unary operators without kernels for integers, of which a program has to do without one.
FENCES: Mapping[Any, int] = MappingProxyType(
    {
        ATEN.ceil.default: schema.BuiltinOperator.CEIL,
        ATEN.cos.default: schema.BuiltinOperator.COS,
        ATEN.sin.default: schema.BuiltinOperator.SIN,
        ATEN.floor.default: schema.BuiltinOperator.FLOOR,
    }
)

# What of these is in floating point, it leaves there.
_LEFT = frozenset(
    {
        *layers.LAYERS,
        *axes.VIEWS,
        QUANTIZED.quantize_per_tensor.default,
        ATEN.add.Tensor,
        ATEN.sub.Tensor,
        ATEN.mul.Tensor,
        ATEN.bmm.default,
        ATEN.matmul.default,
        ATEN.gelu.default,
        ATEN.hardsigmoid.default,
        ATEN.hardswish.default,
        ATEN.mean.dim,
        ATEN.sigmoid.default,
        ATEN.silu.default,
    }
)

# These it computes in integers between roundings, for which XNNPACK has no kernels: LiteRT's own rounds on the way, and
# with seven of them a network took eight times as long, on x86-64, as with steps to floating point and back.
_SLOW = frozenset({ATEN.hardswish.default})

# Between roundings, these are as they would be in floating point.
_ON_ONE_GRID = (ATEN.cat.default, ATEN.max_pool2d.default)


def fence(module: GraphModule, floats: bool) -> int | None:
    """Put an operator between rounded numbers and what would take others to their grid; which, None where none is.

    ``floats``: the model may compute in floating point what is faster so, for it is not meant for integers alone.
    Raises ConversionError where the program has all of them.
    """
    free = next((f for f in FENCES if not calls(module, f)), None)
    edges = list(_edges(module, _LEFT - _SLOW if floats else _LEFT))
    if not edges:
        return None
    if free is None:
        raise ConversionError(
            f"{', '.join(map(str, FENCES))} are all in this model; LiteRT's converter has to be shown one that is not. "
            "This is a limit of lvexport; please report it with the model."
        )
    for given, taking in edges:
        taking.replace_input_with(given, call(taking, free, given))
    module.recompile()
    return FENCES[free]


def _edges(module: GraphModule, left: frozenset[Any]) -> Iterator[tuple[Node, Node]]:
    """Each number that is to stay in floating point, with what takes it."""
    for node in module.graph.nodes:
        if is_call(node, *axes.VIEWS) and len(set(_grids(_reading(node)))) > 1:
            yield from ((node, user) for user in node.users if _grid(user) is not None)
        if node.op != "call_function" or node.target in left or _is_rounding(node) or _is_of_layer(node):
            continue
        rounding = [user for user in node.users if _is_rounding(user)]
        if _is_joined(node, rounding):
            yield from (
                (given, node) for given in node.all_input_nodes if not _is_rounded(given) and not _is_own(given, left)
            )
            continue
        yield from ((given, node) for given in node.all_input_nodes if _is_rounded(given))
        yield from ((node, user) for user in rounding)


def _is_joined(node: Node, rounding: list[Node]) -> bool:
    """Whether an operation is computed by integers, on the grid behind it."""
    return node.target in _ON_ONE_GRID and len(rounding) == len(node.users) and not _regrids(node, rounding)


def _is_own(given: Node, left: frozenset[Any]) -> bool:
    """Whether what is in floating point may be made on the grid of the one that takes it."""
    return given.target in left and len(given.users) == 1


def _grids(node: Node) -> Iterator[tuple[Any, ...] | None]:
    """The grid that each use of what is in floating point takes it on, also of views of it; None where that is none.

    The first of several is that of all views to LiteRT's converter. What was rounded has one already.
    """
    if is_call(node, QUANTIZED.dequantize_per_tensor.default):
        return
    for user in node.users:
        yield from _grids(user) if is_call(user, *axes.VIEWS) else (_grid(user),)


def _grid(user: Node) -> tuple[Any, ...] | None:
    """The grid that something takes numbers on."""
    if _is_rounding(user):
        return user.args[1:]
    rounding = [behind for behind in user.users if _is_rounding(behind)]
    return rounding[0].args[1:] if rounding and _is_joined(user, rounding) else None


def _regrids(node: Node, rounding: list[Node]) -> bool:
    """Whether a rounded number that an operation is given would be given another grid where it is made.

    That is so where nothing else takes it, as what is made on the grid behind needs no second rounding.
    """
    readings = [_reading(given) for given in node.all_input_nodes if _is_rounded(given)]
    alone = [reading for reading in readings if len(reading.args[0].users) == 1]  # type: ignore[union-attr]
    return any(reading.args[1:] != user.args[1:] for reading in alone for user in rounding)


def without_fences(model: Any, kind: int) -> None:
    """Take the operators of a kind out of a model, and the kind out of those that it names."""
    for graph in model.subgraphs:
        found = [operator for operator in graph.operators if edits.code(model, operator) == kind]
        through = {int(operator.outputs[0]): int(operator.inputs[0]) for operator in found}
        graph.operators = [operator for operator in graph.operators if operator not in found]
        for operator in graph.operators:
            operator.inputs = [through.get(int(place), int(place)) for place in operator.inputs]
    edits.forget(model, kind)


def _is_of_layer(node: Node) -> bool:
    """Whether a node clips what a layer gives, which the layer then does itself."""
    return is_call(node, *layers.CLIPS) and is_call(node.args[0], *layers.LAYERS)


def _is_rounding(node: Node) -> bool:
    return node.op == "call_function" and str(node.target).startswith("quantized_decomposed.")


def _is_rounded(node: Node) -> bool:
    """Whether a node is a view of what was rounded."""
    return is_call(_reading(node), QUANTIZED.dequantize_per_tensor.default)


def _reading(node: Node) -> Node:
    """What a node is a view of."""
    while is_call(node, *axes.VIEWS):
        node = node.args[0]  # type: ignore[assignment]
    return node
