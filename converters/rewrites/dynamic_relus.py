"""Dynamic ReLU in the form of one operation that a runtime has. Importing this loads torch."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from itertools import product
from typing import Any

from torch.fx import GraphModule, Node

from lvexport.converters.rewrites.graph import ATEN, arguments, call, calls, constant, is_call, prune, replace, shape

LEAST = 2.0**-40  # of a slope that is divided by: what it adds to zero is lost in single precision

Interval = tuple[float, float]
_ANY: Interval = (-math.inf, math.inf)
_RANGES: dict[Any, Interval] = {
    ATEN.hardsigmoid.default: (0.0, 1.0),
    ATEN.sigmoid.default: (0.0, 1.0),
    ATEN.softmax.int: (0.0, 1.0),
    ATEN.relu.default: (0.0, math.inf),
    ATEN.relu6.default: (0.0, 6.0),
    ATEN.tanh.default: (-1.0, 1.0),
}
_PARTS = (  # what gives numbers that it is given first
    operator.getitem,
    ATEN.chunk.default,
    ATEN.expand.default,
    ATEN.permute.default,
    ATEN.reshape.default,
    ATEN.select.int,
    ATEN.slice.Tensor,
    ATEN.split.Tensor,
    ATEN.split_with_sizes.default,
    ATEN.squeeze.dim,
    ATEN.unsqueeze.default,
    ATEN.view.default,
)
_CORNERS: dict[Any, Callable[[float, float], float]] = {
    ATEN.add.Tensor: operator.add,
    ATEN.sub.Tensor: operator.sub,
    ATEN.mul.Tensor: operator.mul,
}
STEPS = 12  # back from a slope, so many operations at most


def name_dynamic_relus(module: GraphModule) -> None:
    """Write max(a·x, b·x) as M·prelu(x, m/M), where M is the larger slope of each channel and m the other.

    That is two passes over a map in place of three, where a PReLU may have slopes that are computed. M may be zero,
    where a sigmoid is, and is taken for no less than :data:`LEAST`. Where no slope is known never to be negative, M may
    be negative too, and all stays as it is.
    """
    for node in calls(module, ATEN.maximum.default):
        found = _slopes(node)
        if found is None or all(interval(module, slope)[0] < 0 for slope in found[1:]):
            continue
        x, first, second = found
        larger = call(node, ATEN.clamp.default, call(node, ATEN.maximum.default, first, second), LEAST)
        ratio = call(node, ATEN.div.Tensor, call(node, ATEN.minimum.default, first, second), larger)
        bent = call(node, ATEN._prelu_kernel.default, x, ratio)
        replace(node, call(node, ATEN.mul.Tensor, bent, larger))
    prune(module)


def _slopes(node: Node) -> tuple[Node, Node, Node] | None:
    """The map and the slopes of a dynamic ReLU, one number a channel each; None where it is none."""
    sides = [_sloped(side) for side in node.args]
    for (x, first), (y, second) in product(*sides):
        if x is y:
            return x, first, second
    return None


def _sloped(side: Any) -> list[tuple[Node, Node]]:
    """A map and its slopes, of which a node that nothing else reads is the product."""
    if not is_call(side, ATEN.mul.Tensor) or len(side.users) > 1:
        return []
    return [(x, slope) for x, slope in (side.args, side.args[::-1]) if _is_a_channel(slope, x)]


def _is_a_channel(slope: Any, x: Any) -> bool:
    """Whether a slope has one number for each channel of a map."""
    if not (isinstance(slope, Node) and isinstance(x, Node) and len(shape(x)) == 4):
        return False
    return shape(slope) == (*shape(x)[:2], 1, 1) != shape(x)


def interval(module: GraphModule, node: Any, steps: int = STEPS) -> Interval:
    """Between what the numbers of a node, or a number, are sure to be, as far as the last operations say."""
    if isinstance(node, int | float):
        return float(node), float(node)
    if (kept := constant(module, node)) is not None:
        return (kept.min().item(), kept.max().item()) if kept.numel() and kept.is_floating_point() else _ANY
    if is_call(node, *_RANGES):
        return _RANGES[node.target]
    if steps and is_call(node, *_PARTS):
        return interval(module, node.args[0], steps - 1)
    if steps and is_call(node, *_CORNERS) and arguments(node).get("alpha", 1) == 1:
        return _of_two(_CORNERS[node.target], *(interval(module, side, steps - 1) for side in node.args[:2]))
    return _ANY


def _of_two(corner: Callable[[float, float], float], first: Interval, second: Interval) -> Interval:
    """Between what a sum, difference or product of two numbers is: none of them turns between the ends."""
    ends = [corner(a, b) for a, b in product(first, second)]
    return _ANY if any(map(math.isnan, ends)) else (min(ends), max(ends))
