"""Convolutions as the linear layers that they are: of the numbers at one place, or of those around each place.

Made of operations that XNNPACK has kernels for. Importing this loads torch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

from lvexport.converters.compression import is_product
from lvexport.converters.rewrites.graph import arguments

_ATEN = torch.ops.aten
_JOINED = 5  # tensors that XNNPACK concatenates at a time (backends/xnnpack/operators/op_cat.py)


def as_linear(layer: Node) -> Node:
    """Put a linear layer in the place of a convolution without groups, a row for each place; it is given back.

    Its weight is the convolution's as :func:`matrix` has it. Rows come of a matrix, which has one layout only:
    ExecuTorch takes maps in channels-last order.
    """
    graph, (n, outputs, height, width) = layer.graph, layer.meta["val"].shape
    with graph.inserting_before(layer):
        maps = graph.call_function(_ATEN.permute.default, (layer.args[0], [0, 2, 3, 1]))
        maps = maps if is_product(layer) else patches(layer, maps)
        features = layer.args[1].meta["val"][0].numel()  # type: ignore[union-attr]
        rows = graph.call_function(_ATEN.reshape.default, (maps, [-1, features]))
        linear = graph.call_function(_ATEN.linear.default, (rows, *layer.args[1:3]))
        made = graph.call_function(_ATEN.reshape.default, (linear, [n, height, width, outputs]))
        made = graph.call_function(_ATEN.permute.default, (made, [0, 3, 1, 2]))
    made.meta["val"] = layer.meta["val"]
    layer.replace_all_uses_with(made)
    graph.erase_node(layer)
    return linear


def matrix(weight: Tensor) -> Tensor:
    """(O, I, height, width) → (O, height·width·I), in the order of :func:`patches`."""
    return weight.permute(0, 2, 3, 1).flatten(1)


def patches(layer: Node, maps: Node) -> Node:
    """(n, H, W, I) → (n, height, width, places·I): beside each other, what a convolution sees at each of its places.

    First along rows, then along columns. A stride makes neighbours channels of one place.
    """
    graph, given = layer.graph, arguments(layer)
    n, channels, *sizes = layer.args[0].meta["val"].shape  # type: ignore[union-attr]
    kernel, made = layer.args[1].meta["val"].shape[2:], layer.meta["val"].shape[2:]  # type: ignore[union-attr]
    before, stride, dilation = given["padding"], given["stride"], given["dilation"]
    # As many as the last place sees, and whole strides of them.
    reach = [(made[i] - 1) * stride[i] + (kernel[i] - 1) * dilation[i] + 1 for i in (0, 1)]
    whole = [-(-max(reach[i], sizes[i] + before[i]) // stride[i]) * stride[i] for i in (0, 1)]
    behind = [whole[i] - sizes[i] - before[i] for i in (0, 1)]
    if any(before) or any(behind):
        ends = [0, 0, before[1], behind[1], before[0], behind[0]]
        maps = graph.call_function(_ATEN.constant_pad_nd.default, (maps, ends, 0.0))
    step = stride[1]
    strided = _shaped(graph, maps, [n, whole[0], whole[1] // step, step * channels])
    rows = []
    for place in range(kernel[1]):
        first, own = divmod(place * dilation[1], step)
        part = _part(graph, strided, 2, first, made[1], whole[1] // step)
        rows.append(_part(graph, part, 3, own * channels, channels, step * channels))
    wide, step = joined(graph, rows), stride[0]
    features = kernel[1] * channels
    strided = _shaped(graph, wide, [n, whole[0] // step, step, made[1] * features])
    columns = []
    for place in range(kernel[0]):
        first, own = divmod(place * dilation[0], step)
        part = _part(graph, strided, 1, first, made[0], whole[0] // step)
        part = _part(graph, part, 2, own, 1, step)
        columns.append(_shaped(graph, part, [n, made[0], made[1], features]))
    return joined(graph, columns)


def joined(graph: Graph, parts: list[Node]) -> Node:
    """Tensors one after the other along the last dimension."""
    found, rest = parts[0], parts[1:]
    while rest:
        found = graph.call_function(_ATEN.cat.default, ([found, *rest[: _JOINED - 1]], 3))
        rest = rest[_JOINED - 1 :]
    return found


def _shaped(graph: Graph, node: Node, shape: list[int]) -> Node:
    return graph.call_function(_ATEN.reshape.default, (node, shape))


def _part(graph: Graph, node: Node, dim: int, first: int, count: int, size: int) -> Node:
    """So many elements of a dimension, all of it left as it is."""
    of: tuple[Any, ...] = (node, dim, first, first + count)
    return node if count == size else graph.call_function(_ATEN.slice.Tensor, of)
