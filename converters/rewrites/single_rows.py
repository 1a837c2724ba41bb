"""Linear layers over single rows in four or more dimensions, (…, 1, in), as LiteRT's converter takes them.

It makes a product of three dimensions of such a layer, with a result of four, and fails, whatever views are around it.
Normalisations behind a pooling have such, over a map of one place.
"""

from __future__ import annotations

from math import prod

from torch.fx import GraphModule, Node

from lvexport.converters.rewrites.graph import ATEN, arguments, call, calls, constant, keep, prune, replace, shape

_RANK = 4  # least, of what such a layer is given


def spell_single_rows(module: GraphModule) -> None:
    """Write each that has constant weights as a convolution of one place over a map (1, in, rows, 1)."""
    for node in calls(module, ATEN.linear.default):
        given = arguments(node)
        weight = constant(module, given["weight"])
        if weight is None or not is_over_single_rows(node):
            continue
        *outer, width = shape(given["input"])
        rows = call(node, ATEN.reshape.default, given["input"], [1, prod(outer), 1, width])
        places = call(node, ATEN.permute.default, rows, [0, 3, 1, 2])
        kernel = keep(module, node, f"{node.name}_kernel", weight[:, :, None, None])
        made = call(node, ATEN.conv2d.default, places, kernel, given["bias"])
        turned = call(node, ATEN.permute.default, made, [0, 2, 3, 1])
        replace(node, call(node, ATEN.reshape.default, turned, [*outer, len(weight)]))
    prune(module)


def is_over_single_rows(layer: Node) -> bool:
    """Whether a linear layer is given such."""
    sizes = shape(arguments(layer)["input"])
    return len(sizes) >= _RANK and sizes[-2] == 1
