"""Attention written out in the operations that runtimes are fast at."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch.fx import GraphModule, Node

from lvexport.converters.rewrites import axes, layers
from lvexport.converters.rewrites.axes import View
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


def split_projections(module: GraphModule) -> None:
    """Make a layer whose output is taken apart, as queries, keys and values are, one layer for each part."""
    for layer in calls(module, *layers.LAYERS):
        if not layers.is_layer(module, layer) or layers.group_count(layer) != 1:
            continue
        pieces = _pieces(layer, axes.whole(shape(layer)))
        if pieces and all(piece is not layer and _is_all_but_features(layer, view) for piece, view in pieces):
            for piece, view in pieces:
                _replace_piece(module, layer, piece, view)
    prune(module)


def _pieces(node: Node, view: View) -> list[tuple[Node, View]]:
    """The parts of a layer's output that something other than a view reads, with what of it they are.

    The layer itself is among them where it is read as a whole, or in a part that is no product of ranges.
    """
    found: list[tuple[Node, View]] = []
    for user in node.users:
        parts = {} if user.op != "call_function" else _taken(user, view)
        if not parts or any(part is None for part in parts.values()):
            found.append((node, view))
        for part, its in parts.items():
            if its is not None:
                found += _pieces(part, its)
    return list(dict(found).items())


def _taken(user: Node, view: View) -> dict[Node, View | None]:
    """What a view, or a node that takes a view apart, gives; nothing for all other nodes."""
    if user.target in axes.VIEWS:
        return {user: axes.through(user, view)}
    return axes.parts(user, view) or {}


def _is_all_but_features(layer: Node, view: View) -> bool:
    """Whether a part leaves out nothing but some of a layer's output channels, and not all of them are in it."""
    inner, outer = _feature_strides(layer)
    others = prod(size for size, stride in view.atoms if not inner <= stride < outer)
    channels = prod(size for size, _ in view.atoms) // others
    within = view.offset % inner == 0 and view.offset < outer
    return within and others * (outer // inner) == prod(shape(layer)) and channels < outer // inner


def _feature_strides(layer: Node) -> tuple[int, int]:
    """The stride of a layer's output channels, and that of what lies outside of them."""
    axis = layers.output_axis(layer)
    inner = prod(shape(layer)[axis + 1 :])
    return inner, inner * shape(layer)[axis]


def _replace_piece(module: GraphModule, layer: Node, piece: Node, view: View) -> None:
    """Give a part of a layer's output a layer of its own, with those rows of the weights."""
    inner, outer = _feature_strides(layer)
    features = sorted((a for a in view.atoms if inner <= a[1] < outer), key=lambda a: -a[1])
    rows = torch.tensor([view.offset // inner])
    for size, stride in features:
        rows = (rows[:, None] + torch.arange(size) * (stride // inner)).reshape(-1)
    weight, bias = layers.numbers(module, layer)
    part = layers.like(module, layer, weight[rows], bias[rows])
    strides = {atom: inner * prod(size for size, _ in features[i + 1 :]) for i, atom in enumerate(features)}

    def moved(atom: axes.Atom) -> axes.Atom:
        size, stride = atom
        if atom in strides:
            return size, strides[atom]
        return (size, stride // outer * inner * len(rows)) if stride >= outer else atom

    own = View(tuple(tuple(map(moved, dimension)) for dimension in view.dimensions))
    piece.replace_all_uses_with(axes.emit(piece, part, own))


def spell_attention(module: GraphModule) -> None:
    """Write torch's attention as two products and a softmax, without a guard for rows in which all is masked.

    Left alone where a mask of truth values could mask a whole row.
    """
    for node in calls(module, ATEN.scaled_dot_product_attention.default):
        given = arguments(node)
        mask = given["attn_mask"]
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
