"""Bicubic resizing, which not every converter knows, as the two products that it is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from lvexport.converters.rewrites.graph import ATEN, arguments, call, calls, keep, prune, replace, shape, value

# Separable, and linear in what they are given.
RESIZES = (
    ATEN.upsample_bicubic2d.vec,
    ATEN._upsample_bicubic2d_aa.vec,
    ATEN._upsample_bilinear2d_aa.vec,
)


def spell_resizes(module: GraphModule) -> None:
    """Write each as a product over the columns of a map (N, C, H, W), and one over its rows."""
    for node in calls(module, *RESIZES):
        narrow = call(node, ATEN.linear.default, arguments(node)["input"], _weights(module, node, 3))
        turned = call(node, ATEN.transpose.int, narrow, 2, 3)
        both = call(node, ATEN.linear.default, turned, _weights(module, node, 2))
        replace(node, call(node, ATEN.transpose.int, both, 2, 3))
    prune(module)


def _weights(module: GraphModule, node: Node, axis: int) -> Node:
    """(out, in): what each place along an axis of the resized map takes of each place of the map.

    They are what the operation makes of an identity matrix, of which it leaves the other axis as it is.
    """
    given = arguments(node)
    size = shape(given["input"])[axis]
    identity = torch.eye(size, dtype=torch.float64)[None, None]
    factors = given["scale_factors"]
    sizes = None if factors is not None else [shape(node)[axis], size]
    scales = None if factors is None else [factors[axis - 2], 1.0]
    resize: Any = node.target
    with torch.no_grad():
        found: Tensor = resize(identity, sizes, given["align_corners"], scales)[0, 0]
    return keep(module, node, f"{node.name}_{'rows' if axis == 2 else 'columns'}", found.to(value(node).dtype))
