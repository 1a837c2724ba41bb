"""Constant factors folded into weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from lvexport.converters.rewrites import axes, layers, parts
from lvexport.converters.rewrites.graph import (
    ATEN,
    calls,
    constant,
    is_call,
    is_tensor,
    prune,
    replace,
    shape,
    wide,
)


def fold_scales(module: GraphModule) -> None:
    """Fold factors, one for all or one for every channel, into the layer before or the layers behind."""
    for product in calls(module, ATEN.mul.Tensor, ATEN.mul.Scalar, ATEN.div.Tensor, ATEN.div.Scalar):
        factor = factor_of(module, product)
        if factor is None:
            continue
        x, scale, axis = factor
        if _fold_backwards(module, x, scale, axis) or _fold_forwards(module, product, scale, axis):
            replace(product, x)
    prune(module)


def factor_of(module: GraphModule, product: Node) -> tuple[Node, Tensor, int | None] | None:
    """What is multiplied, by which numbers, along which axis: None for one number."""
    a, b = product.args[:2]
    division = product.target in (ATEN.div.Tensor, ATEN.div.Scalar)
    x, by = (b, a) if not division and (not is_tensor(a) or constant(module, a) is not None) else (a, b)
    if not is_tensor(x) or constant(module, x) is not None or shape(x) != shape(product):  # type: ignore[arg-type]
        return None
    numbers = _numbers(module, by)
    if numbers is None:
        return None
    long = [i for i, size in enumerate(numbers.shape) if size != 1]
    if len(long) > 1:
        return None
    scale = wide(numbers.reshape(-1))
    axis = long[0] + len(shape(product)) - numbers.ndim if long else None
    return x, 1 / scale if division else scale, axis  # type: ignore[return-value]


def _numbers(module: GraphModule, node: Any) -> Tensor | None:
    return torch.tensor(float(node)) if isinstance(node, int | float) else constant(module, node)


def _fold_backwards(module: GraphModule, node: Any, scale: Tensor, axis: int | None) -> bool:
    """Scale a layer of which a node is a linear function that nothing else reads."""
    if not isinstance(node, Node) or len(node.users) != 1 or node.op != "call_function":
        return False
    if layers.is_layer(module, node):
        if axis not in (None, layers.output_axis(node)):
            return False
        layers.transform_outputs(module, node, scale)
        return True
    if axis is None and _fold_into_part(module, node, scale):
        return True
    if node.target in axes.VIEWS:
        origin = None if axis is None else axes.origin(node, axis)
        if axis is not None and origin is None:
            return False
        return _fold_backwards(module, node.args[0], scale, origin)
    if is_call(node, ATEN.matmul.default, ATEN.bmm.default) and axis is None and node.args[0] is not node.args[1]:
        return any(_fold_backwards(module, factor, scale, None) for factor in node.args)
    return False


def _fold_into_part(module: GraphModule, node: Node, scale: Tensor) -> bool:
    """Scale the rows of a layer that make a part of what it gives, where they make no other part."""
    layer = parts.source(node)
    if not layers.is_layer(module, layer):
        return False
    found = parts.parts(layer)
    part = found.pop(node, None)
    if part is None or any(other is None or _overlap(part.rows, other.rows) for other in found.values()):
        return False
    factors = torch.ones(part.outer // part.inner, dtype=torch.double)
    factors[part.rows] = scale
    layers.transform_outputs(module, layer, factors)
    return True


def _overlap(a: Tensor, b: Tensor) -> bool:
    return bool(torch.isin(a, b).any())


def _fold_forwards(module: GraphModule, product: Node, scale: Tensor, axis: int | None) -> bool:
    if axis is None:
        return False
    takers = layers.takers(module, product, axis)
    for taker in takers or ():
        layers.transform_inputs(module, taker, scale, torch.zeros_like(scale))
    return bool(takers)
