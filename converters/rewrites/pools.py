"""Pooling mixers as depthwise convolutions. Importing this loads torch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from lvexport.converters.rewrites.graph import ATEN, arguments, call, calls, is_call, keep, prune, replace, shape, value
from lvexport.converters.rewrites.scales import factor_of

_ROWS, _COLUMNS = 2, 3
_COPIES = 2  # of the map, with means around it


@dataclass(frozen=True)
class Mix:
    """``own``·x + ``mean``·pool(x), each a number for every channel or for all.

    ``end`` is the node that gives it, and ``passes`` how many operations it takes.
    """

    end: Node
    own: Tensor
    mean: Tensor
    passes: int = 1

    def behind(self, module: GraphModule, x: Node) -> Mix | None:
        """With the operation that takes it, if none else does and it is still such a sum."""
        user = next(iter(self.end.users))
        if len(self.end.users) > 1:
            return None
        if is_call(user, ATEN.add.Tensor, ATEN.sub.Tensor) and arguments(user)["alpha"] == 1:
            return self._beside(user, x)
        found = factor_of(module, user) if is_call(user, ATEN.mul.Tensor, ATEN.mul.Scalar) else None
        if found is None or found[0] is not self.end or found[2] not in (None, 1):
            return None
        return Mix(user, self.own * found[1], self.mean * found[1], self.passes + 1)

    def _beside(self, user: Node, x: Node) -> Mix | None:
        """A sum with the map, or a difference from it."""
        first, second = user.args[:2]
        if {first, second} != {x, self.end}:
            return None
        sign = -1 if user.target is ATEN.sub.Tensor else 1
        of_map, of_mix = (1, sign) if first is x else (sign, 1)
        return Mix(user, of_map + of_mix * self.own, of_mix * self.mean, self.passes + 1)


def merge_pools(module: GraphModule) -> None:
    """Write x + s·(pool(x) - x), and whatever sums up a map and its means over windows, as a depthwise convolution.

    Where padding does not count, the mean at a border is over fewer pixels. It is that of a whole window if around the
    map stand the means of its two outermost rows, and then columns. Those are two copies of the map, so that it is done
    where the sum takes more passes than they and the convolution.
    """
    for pool in calls(module, ATEN.avg_pool2d.default):
        window = _window(pool)
        if window is None:
            continue
        x, mix = window.x, Mix(pool, torch.zeros(1).double(), torch.ones(1).double())
        while (more := mix.behind(module, x)) is not None:
            mix = more
        if mix.passes > 1 + (0 if window.counts else _COPIES):
            replace(mix.end, _convolution(module, mix, window))
    prune(module)


@dataclass(frozen=True)
class Window:
    """``size`` pixels a side around each pixel of x. ``counts``: those beyond the border, which are 0, too."""

    x: Node
    size: int
    counts: bool


def _window(pool: Node) -> Window | None:
    """The window of a pooling that gives a mean for every pixel; None if it is another, or wider than borders allow."""
    given = arguments(pool)
    size = given["kernel_size"][0]
    around = list(given["kernel_size"]) == [size] * 2 and list(given["padding"]) == [size // 2] * 2
    each = list(given["stride"]) == [1, 1] and size % 2 == 1 and given["divisor_override"] is None
    if not (around and each) or len(shape(pool)) != 4:
        return None
    counts = bool(given["count_include_pad"])
    return Window(given["self"], size, counts) if counts or size == 3 else None


def _convolution(module: GraphModule, mix: Mix, window: Window) -> Node:
    """The sum, in front of its last operation."""
    channels, size, before = shape(mix.end)[1], window.size, mix.end
    weight = (mix.mean / size**2).reshape(-1, 1, 1, 1).expand(channels, 1, size, size).clone()
    weight[:, 0, size // 2, size // 2] += mix.own
    kept = keep(module, before, f"{before.name}_weight", weight.to(value(before).dtype))
    x, padding = window.x, size // 2
    if not window.counts:
        x, padding = _bordered(before, _bordered(before, x, _ROWS), _COLUMNS), 0
    return call(before, ATEN.conv2d.default, x, kept, None, [1, 1], [padding] * 2, [1, 1], channels)


def _bordered(before: Node, x: Node, axis: int) -> Node:
    """A map between the mean of its first two rows, or columns, and that of its last two."""
    length = shape(x)[axis]
    some = min(2, length)
    kernel = [some, 1] if axis == _ROWS else [1, some]
    ends = [call(before, ATEN.slice.Tensor, x, axis, at, at + some) for at in (0, length - some)]
    first, last = (call(before, ATEN.avg_pool2d.default, end, kernel) for end in ends)
    return call(before, ATEN.cat.default, [first, x, last], axis)
