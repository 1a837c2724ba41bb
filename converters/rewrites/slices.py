"""What is taken out of tensors, in the form that delegates take."""

from __future__ import annotations

import dataclasses
import operator

import torch
from torch.fx import GraphModule, Node

from lvexport.converters.rewrites import axes, layers
from lvexport.converters.rewrites.graph import (
    ATEN,
    arguments,
    call,
    calls,
    constant,
    is_call,
    is_tensor,
    keep,
    prune,
    replace,
    shape,
    value,
)

_SPLITS = (ATEN.split.Tensor, ATEN.split_with_sizes.default, ATEN.split.sizes, ATEN.chunk.default, ATEN.unbind.int)


def spell_slices(module: GraphModule) -> None:
    """Write splits, selections and rolls as slices, and every n-th pixel of a map as a depthwise convolution."""
    for node in calls(module, *_SPLITS):
        _spell_split(node)
    for node in calls(module, ATEN.roll.default):
        _spell_roll(node)
    for node in calls(module, ATEN.select.int):
        given = arguments(node)
        _cut(node, given["self"], given["dim"], given["index"], 1)
    prune(module)
    for node in calls(module, ATEN.slice.Tensor):
        _spell_strides(module, node)
    for node in calls(module, ATEN.slice.Tensor):
        _spell_every_other(module, node)
    _merge_convolutions(module)
    prune(module)


def split_parts(module: GraphModule) -> None:
    """Take queries, keys and values apart along the heads, and whatever else has a dimension of its own for that.

    That spares the dimension: the views before have one fewer, and no part has one of size 1 to lose.
    """
    for node in calls(module, ATEN.unbind.int):
        given = arguments(node)
        split = _as_split(node, given["self"], given["dim"])
        if split is not None:
            replace(node, split)
    for selections in _selections(module):
        first = next(node for node in module.graph.nodes if node in selections)
        given = arguments(first)
        split = _as_split(first, given["self"], given["dim"])
        if split is not None:
            for index, node in enumerate(selections):
                replace(node, call(node, operator.getitem, split, index))
    prune(module)


def _selections(module: GraphModule) -> list[list[Node]]:
    """Selections that together are all of what they are taken from, each of it once, in the order of their places."""
    found: dict[tuple[Node, int], dict[int, Node]] = {}
    for node in calls(module, ATEN.select.int):
        given = arguments(node)
        sizes = shape(given["self"])
        axis = given["dim"] % len(sizes)
        found.setdefault((given["self"], axis), {})[given["index"] % sizes[axis]] = node
    return [
        [its[i] for i in range(len(its))]
        for (source, axis), its in found.items()
        if len(its) == shape(source)[axis] == len(source.users)
    ]


def _as_split(before: Node, source: Node, axis: int) -> Node | None:
    """A split along the dimension that lies within an axis; None where none does, or where that takes more views."""
    found = axes.chain(source)
    dimensions = list(found.view.dimensions)
    axis %= len(dimensions)
    outer = dimensions[axis]
    inner = next((i for i, d in enumerate(dimensions) if d and len(axes.merged((*outer, d[0]))) == 1), None)
    if not outer or inner is None:
        return None
    size = found.view.shape[inner]
    dimensions[inner] = (*outer, *dimensions[inner])
    place = inner - (axis < inner)
    del dimensions[axis]
    joined = dataclasses.replace(found.view, dimensions=tuple(dimensions))
    spared = found.view.shape[axis]  # dimensions of size 1, one for each part
    if axes.length(shape(found.source), joined, axes.MOST_DIMENSIONS) >= len(found.steps) + spared:
        return None
    return call(before, ATEN.split.Tensor, axes.emit(before, found.source, joined), size, place)


def _spell_split(node: Node) -> None:
    given = arguments(node)
    source: Node = given["self"]
    axis = given["dim"] % len(shape(source))
    unbound = node.target is ATEN.unbind.int
    lengths = [1 if unbound else piece.shape[axis] for piece in node.meta["val"]]
    for user in list(node.users):
        index = int(user.args[1])  # type: ignore[arg-type]
        _cut(user, source, axis, sum(lengths[:index]), lengths[index])


def _cut(node: Node, source: Node, axis: int, start: int, length: int) -> None:
    """Put a slice of a source in a node's place, in that node's shape."""
    axis, start = axis % len(shape(source)), start % shape(source)[axis]
    cut = call(node, ATEN.slice.Tensor, source, axis, start, start + length)
    replace(node, axes.reshape(node, cut, shape(node)))


def _spell_roll(node: Node) -> None:
    """Write a roll as what leaves at the end of an axis, and before it what stays, as for windows that are shifted."""
    given = arguments(node)
    x: Node = given["self"]
    for shift, axis in zip(given["shifts"], given["dims"], strict=False):
        size = shape(x)[axis]
        moved = shift % size
        if moved:
            ends = call(node, ATEN.slice.Tensor, x, axis, size - moved, size)
            x = call(node, ATEN.cat.default, [ends, call(node, ATEN.slice.Tensor, x, axis, 0, size - moved)], axis)
    if given["dims"]:
        replace(node, x)


def _spell_strides(module: GraphModule, node: Node) -> None:
    """Write two slices of every n-th row and column, one behind the other, as a convolution with one pixel."""
    inner = node.args[0]
    if not is_tensor(inner) or not is_call(inner, ATEN.slice.Tensor) or len(inner.users) > 1:  # type: ignore[union-attr]
        return
    steps = {_every(part) for part in (node, inner)}  # type: ignore[arg-type]
    among = {axis for axis, _ in steps}
    step = max(step for _, step in steps)
    if among not in ({2, 3}, {1, 2}) or not step or any(other != step for _, other in steps):
        return
    x: Node = inner.args[0]  # type: ignore[assignment,union-attr]
    last = among == {1, 2}  # where the channels are
    channels = shape(x)[3 if last else 1]
    one = keep(module, node, "pixel", torch.ones(channels, 1, 1, 1, dtype=value(x).dtype))
    x = call(node, ATEN.permute.default, x, [0, 3, 1, 2]) if last else x
    found = call(node, ATEN.conv2d.default, x, one, None, [step, step], [0, 0], [1, 1], channels)
    replace(node, call(node, ATEN.permute.default, found, [0, 2, 3, 1]) if last else found)


def _spell_every_other(module: GraphModule, node: Node) -> None:
    """Write every n-th number of rows, as rotary embeddings take them, as a product with ones and zeros."""
    given = arguments(node)
    x: Node = given["self"]
    last = len(shape(x)) - 1
    if given["step"] > 1 and given["dim"] % len(shape(x)) == last and value(x).is_floating_point():
        taken = torch.eye(shape(x)[last], dtype=value(x).dtype)[given["start"] : given["end"] : given["step"]]
        replace(node, call(node, ATEN.linear.default, x, keep(module, node, "taken", taken)))


def _every(node: Node) -> tuple[int, int]:
    """Axis and step of a slice of a map over its whole length; a step of 0 for any other slice."""
    given = arguments(node)
    rank = len(shape(node))
    whole = not given["start"] and (given["end"] is None or given["end"] >= shape(given["self"])[given["dim"]])
    return given["dim"] % rank, given["step"] if whole and rank == 4 and given["step"] > 1 else 0


def _merge_convolutions(module: GraphModule) -> None:
    """Make the sum of two depthwise convolutions of the same map, one of them of one pixel, one convolution."""
    for total in calls(module, ATEN.add.Tensor):
        pair = total.args[:2]
        if not all(is_call(p, ATEN.conv2d.default) and layers.is_layer(module, p) for p in pair):
            continue
        large, small = sorted(pair, key=lambda p: -constant(module, p.args[1]).shape[-1])  # type: ignore[union-attr]
        if _can_merge(module, large, small) and len(small.users) == len(large.users) == 1:  # type: ignore[arg-type,union-attr]
            weight, bias = layers.numbers(module, large)  # type: ignore[arg-type]
            pixel, more = layers.numbers(module, small)  # type: ignore[arg-type]
            weight = weight.clone()
            weight[:, :, weight.shape[2] // 2, weight.shape[3] // 2] += pixel[:, :, 0, 0]
            replace(total, layers.like(module, large, weight, bias + more))  # type: ignore[arg-type]


def _can_merge(module: GraphModule, large: Node, small: Node) -> bool:
    a, b = arguments(large), arguments(small)
    weight, pixel = constant(module, a["weight"]), constant(module, b["weight"])
    assert weight is not None
    assert pixel is not None
    centred = list(a["padding"]) == [side // 2 for side in weight.shape[2:]] and all(s % 2 for s in weight.shape[2:])
    same = a["input"] is b["input"] and list(a["stride"]) == list(b["stride"]) and a["groups"] == b["groups"]
    one = tuple(pixel.shape[2:]) == (1, 1) and not any(b["padding"]) and set(a["dilation"]) == {1}
    return centred and same and one and weight.shape[:2] == pixel.shape[:2]
