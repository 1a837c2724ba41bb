"""Means and sums in the form that delegates take."""

from __future__ import annotations

import torch
from torch.fx import GraphModule, Node

from lvexport.converters.rewrites import axes
from lvexport.converters.rewrites.graph import ATEN, arguments, call, calls, keep, prune, replace, shape, value


def spell_means(module: GraphModule) -> None:
    """Write the mean over a map so that it keeps the map's two dimensions; means over tokens and sums as products."""
    for mean in calls(module, ATEN.mean.dim):
        given = arguments(mean)
        x: Node = given["self"]
        rank = len(shape(x))
        reduced = sorted(d % rank for d in given["dim"] or ())
        if given["dtype"] is not None:
            continue
        if rank == 4 and reduced == [2, 3] and not given["keepdim"]:
            kept = call(mean, ATEN.mean.dim, x, [2, 3], True)
            replace(mean, axes.reshape(mean, kept, shape(mean)))
        elif rank == 3 and reduced == [1] and shape(x)[0] == 1:
            count = shape(x)[1]
            row = torch.full((1, 1, count), 1 / count, dtype=value(x).dtype)
            product = call(mean, ATEN.bmm.default, keep(module, mean, "token_mean", row), x)
            replace(mean, axes.reshape(mean, product, shape(mean)))
    for total in calls(module, ATEN.sum.dim_IntList):
        _spell_sum(module, total)
    prune(module)


def _spell_sum(module: GraphModule, total: Node) -> None:
    """Write a sum over the last dimension as a product with ones."""
    given = arguments(total)
    x: Node = given["self"]
    rank = len(shape(x))
    if [d % rank for d in given["dim"] or ()] == [rank - 1] and given["dtype"] is None:
        ones = keep(module, total, "ones", torch.ones(1, shape(x)[-1], dtype=value(x).dtype))
        product = call(total, ATEN.linear.default, x, ones)
        replace(total, axes.reshape(total, product, shape(total)))
