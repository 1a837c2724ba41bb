"""Means and sums in the form that delegates take."""

from __future__ import annotations

from math import prod

import torch
from torch.fx import GraphModule, Node

from lvexport.converters.rewrites import axes
from lvexport.converters.rewrites.graph import ATEN, arguments, call, calls, keep, prune, replace, shape, value


def spell_means(module: GraphModule) -> None:
    """Write the mean over a map so that it keeps the map's two dimensions; means over tokens and sums as products."""
    for node in calls(module, ATEN.mean.dim, ATEN.sum.dim_IntList):
        given = arguments(node)
        if given["dtype"] is not None or not given["dim"]:
            continue
        sizes = shape(given["self"])
        reduced = sorted(d % len(sizes) for d in given["dim"])
        averages = node.target is ATEN.mean.dim
        if averages and len(sizes) == 4 and reduced == [2, 3]:
            if not given["keepdim"]:
                kept = call(node, ATEN.mean.dim, given["self"], reduced, True)
                replace(node, axes.reshape(node, kept, shape(node)))
        elif _are_rows(sizes, reduced):
            count = prod(sizes[d] for d in reduced)
            _spell_rows(module, node, given["self"], count, 1 / count if averages else 1.0)
        elif not averages and reduced == [len(sizes) - 1]:
            ones = keep(module, node, "sum_weights", torch.ones(1, sizes[-1], dtype=value(node).dtype))
            replace(node, axes.reshape(node, call(node, ATEN.linear.default, given["self"], ones), shape(node)))
    prune(module)


def _are_rows(sizes: tuple[int, ...], reduced: list[int]) -> bool:
    """Whether the dimensions that are reduced lie beside each other, with others behind them and none before."""
    first, last = reduced[0], reduced[-1]
    beside = last - first == len(reduced) - 1
    return beside and last < len(sizes) - 1 and prod(sizes[:first]) == 1


def _spell_rows(module: GraphModule, node: Node, x: Node, count: int, factor: float) -> None:
    """Write the sum of ``count`` rows, times a factor, as a product with a row of that factor."""
    row = keep(module, node, "rows", torch.full((1, 1, count), factor, dtype=value(x).dtype))
    product = call(node, ATEN.bmm.default, row, axes.reshape(node, x, (1, count, -1)))
    replace(node, axes.reshape(node, product, shape(node)))
