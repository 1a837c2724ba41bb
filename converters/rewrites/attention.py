"""Attention written out in the operations that runtimes are fast at."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch.fx import GraphModule, Node

from lvexport.converters.rewrites import axes, layers
from lvexport.converters.rewrites.graph import (
    ATEN,
    arguments,
    call,
    calls,
    keep,
    prune,
    replace,
    shape,
    value,
)
from lvexport.converters.rewrites.parts import Part, parts


def split_projections(module: GraphModule) -> None:
    """Make a layer whose output is taken apart, as queries, keys and values are, one layer for each part."""
    for layer in calls(module, *layers.LAYERS):
        if not layers.is_layer(module, layer) or layers.group_count(layer) != 1:
            continue
        pieces = parts(layer)
        if pieces and all(part is not None and part.is_less for part in pieces.values()):
            for piece, part in pieces.items():
                assert part is not None
                _replace_piece(module, layer, piece, part)
    prune(module)


def _replace_piece(module: GraphModule, layer: Node, piece: Node, part: Part) -> None:
    """Give a part of a layer's output a layer of its own, with those rows of the weights."""
    weight, bias = layers.numbers(module, layer)
    rows = part.rows
    own = layers.like(module, layer, weight[rows], bias[rows])
    piece.replace_all_uses_with(axes.emit(piece, own, part.alone))


def spell_attention(module: GraphModule) -> None:
    """Write torch's attention as two products and a softmax, without a guard for rows in which all is masked.

    Left alone where a mask of truth values could mask a whole row.
    """
    _spell(module, lambda rank: True)


def spell_odd_attention(module: GraphModule) -> None:
    """The same, but only of other than four dimensions, which torch's exporter to ONNX does not take."""
    _spell(module, lambda rank: rank != 4)


def _spell(module: GraphModule, wanted: Callable[[int], bool]) -> None:
    for node in calls(module, ATEN.scaled_dot_product_attention.default):
        given = arguments(node)
        mask = given["attn_mask"]
        if not wanted(len(shape(given["query"]))):
            continue
        if given["dropout_p"] or given["enable_gqa"] or (mask is not None and value(mask).dtype is torch.bool):
            continue
        replace(node, _spelled(module, node, given))
    prune(module)


def _spelled(module: GraphModule, node: Node, given: dict[str, Any]) -> Node:
    query, key = given["query"], given["key"]
    scale = shape(query)[-1] ** -0.5 if given["scale"] is None else given["scale"]
    scores = call(node, ATEN.matmul.default, query, call(node, ATEN.transpose.int, key, -2, -1))
    scores = call(node, ATEN.mul.Tensor, scores, scale)
    if given["is_causal"]:
        future = torch.full(shape(scores)[-2:], -torch.inf, dtype=value(query).dtype).triu(1)
        scores = call(node, ATEN.add.Tensor, scores, keep(module, node, "future", future))
    if given["attn_mask"] is not None:
        scores = call(node, ATEN.add.Tensor, scores, given["attn_mask"])
    return call(node, ATEN.matmul.default, call(node, ATEN.softmax.int, scores, -1), given["value"])


def batch_products(module: GraphModule) -> None:
    """Write products of stacks of matrices over one batch dimension, and what stands between two of them as well."""
    for node in calls(module, ATEN.matmul.default):
        a, b = node.args
        assert isinstance(a, Node)
        assert isinstance(b, Node)
        if _is_shared(a, b):
            rows = axes.reshape(node, a, (1, -1, shape(a)[-1]))
            whole = call(node, ATEN.bmm.default, rows, axes.reshape(node, b, (1, *shape(b)[-2:])))
            replace(node, axes.reshape(node, whole, shape(node)))
            continue
        if len(shape(a)) != len(shape(b)) or shape(a)[:-2] != shape(b)[:-2]:
            continue
        if len(shape(a)) == 3:  # which torch would expand to their own shape first
            replace(node, call(node, ATEN.bmm.default, a, b))
        elif len(shape(a)) > 3:
            flat = [axes.reshape(node, x, (-1, *shape(x)[-2:])) for x in (a, b)]
            replace(node, axes.reshape(node, call(node, ATEN.bmm.default, *flat), shape(node)))
    for node in list(module.graph.nodes):
        _sink(node)
    from lvexport.converters.rewrites.views import compose_views

    compose_views(module)


def _is_shared(a: Node, b: Node) -> bool:
    """Whether each matrix of a stack is multiplied with one and the same, of which torch would make a copy for each.

    So it is where heads share keys and values. A constant, such as the weights of a layer, is no stack.
    """
    return b.op != "get_attr" and len(shape(b)) > 2 and prod(shape(b)[:-2]) == 1 < prod(shape(a)[:-2])


def _sink(node: Node) -> None:
    """Put the operation on rows before the reshape that it stands behind, where that leaves rows as they are."""
    if node.op != "call_function":
        return
    source = node.args[0] if node.args else None
    if not isinstance(source, Node) or source.target is not ATEN.reshape.default:
        return
    before = source.args[0]
    assert isinstance(before, Node)
    if len(source.users) > 1 or shape(before)[-1:] != shape(source)[-1:]:
        return
    if node.target is ATEN.softmax.int and node.args[1] in (-1, len(shape(node)) - 1):
        moved = call(node, node.target, before, -1)
    elif node.target in (ATEN.add.Tensor, ATEN.mul.Tensor) and _fits(node, before):
        moved = call(node, node.target, before, node.args[1])
    else:
        return
    replace(node, axes.reshape(node, moved, shape(node)))


def _fits(node: Node, before: Node) -> bool:
    other = node.args[1]
    if not isinstance(other, Node):
        return True
    return other.op == "get_attr" and shape(other) == shape(before)
