"""Resizing that not every converter or delegate knows, as the two products that it is."""

from __future__ import annotations

from collections.abc import Iterable
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
NEAREST = (ATEN.upsample_nearest2d.vec, ATEN._upsample_nearest_exact2d.vec)
# Of a map whose nearest neighbours are taken by products: copying takes as long from 144 on (ExecuTorch, one thread).
_WIDEST = 128


def spell_resizes(module: GraphModule) -> None:
    """Write each as a product over the columns of a map (N, C, H, W), and one over its rows."""
    _spell(module, calls(module, *RESIZES))


def spell_nearest(module: GraphModule) -> None:
    """The same for nearest neighbours, for XNNPACK, which has products and nothing that copies a place.

    ExecuTorch's own kernel would take these maps out of the delegate, and more than twice as long.
    """
    _spell(module, [n for n in calls(module, *NEAREST) if max(shape(arguments(n)["input"])[2:]) <= _WIDEST])


def _spell(module: GraphModule, nodes: Iterable[Node]) -> None:
    for node in nodes:
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
        corners = [given["align_corners"]] if "align_corners" in given else []
        found: Tensor = resize(identity, sizes, *corners, scales)[0, 0]
    return keep(module, node, f"{node.name}_{'rows' if axis == 2 else 'columns'}", found.to(value(node).dtype))
