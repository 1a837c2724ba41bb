"""Linear layers and convolutions with constant weights, and what can be folded into these."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from lvexport.converters.rewrites import axes
from lvexport.converters.rewrites.graph import ATEN, arguments, call, constant, is_call, keep, shape, wide

LAYERS = (ATEN.linear.default, ATEN.conv2d.default)
CLIPS = (ATEN.relu.default, ATEN.hardtanh.default, ATEN.relu6.default)  # runtimes make them part of a layer


def is_layer(module: GraphModule, node: Any) -> bool:
    if not is_call(node, *LAYERS):
        return False
    given = arguments(node)
    return constant(module, given["weight"]) is not None and (
        given["bias"] is None or constant(module, given["bias"]) is not None
    )


def output_axis(node: Node) -> int:
    """The axis of what a layer gives that its rows of weights make."""
    return len(shape(node)) - 1 if node.target is ATEN.linear.default else len(shape(node)) - 3


def numbers(module: GraphModule, node: Node) -> tuple[Tensor, Tensor]:
    """Weight and bias in double precision, the bias zeros where there is none."""
    given = arguments(node)
    weight = constant(module, given["weight"])
    assert weight is not None
    bias = constant(module, given["bias"])
    return wide(weight), torch.zeros(len(weight), dtype=torch.double) if bias is None else wide(bias)


def _with_numbers(module: GraphModule, node: Node, weight: Tensor, bias: Tensor) -> tuple[Any, ...]:
    """A layer's arguments with other numbers, rounded to the type that it had; a bias of zeros is left out."""
    old = constant(module, arguments(node)["weight"])
    assert old is not None
    new_bias = keep(module, node, f"{node.name}_bias", bias.to(old.dtype)) if bias.any() else None
    new_weight = keep(module, node, f"{node.name}_weight", weight.to(old.dtype))
    return node.args[0], new_weight, new_bias, *node.args[3:]


def assign(module: GraphModule, node: Node, weight: Tensor, bias: Tensor) -> None:
    """Give a layer other numbers."""
    node.args = _with_numbers(module, node, weight, bias)


def like(module: GraphModule, node: Node, weight: Tensor, bias: Tensor) -> Node:
    """A layer in front of another, on the same input and of the same kind, with numbers of its own."""
    return call(node, node.target, *_with_numbers(module, node, weight, bias), **node.kwargs)  # type: ignore[arg-type]


def column(vector: Tensor, weight: Tensor) -> Tensor:
    """One number for every row of weights, in a shape that multiplies these."""
    return vector.reshape(-1, *(1 for _ in weight.shape[1:]))


def transform_outputs(module: GraphModule, node: Node, scale: Tensor, shift: Tensor | None = None) -> None:
    """Make a layer give scale·y + shift in place of y, a number for every output channel."""
    weight, bias = numbers(module, node)
    scale = scale.expand(len(weight))
    assign(module, node, weight * column(scale, weight), bias * scale + (0 if shift is None else shift))


def transform_inputs(module: GraphModule, node: Node, scale: Tensor, shift: Tensor) -> None:
    """Make a layer that is given x compute what it would from scale·x + shift, a number for every input channel."""
    weight, bias = numbers(module, node)
    groups = group_count(node)
    grouped = weight.reshape(groups, len(weight) // groups, weight.shape[1], -1)
    factors = scale.expand(groups * weight.shape[1]).reshape(groups, 1, -1, 1)
    addends = shift.expand(groups * weight.shape[1]).reshape(groups, 1, -1, 1)
    bias = bias + (grouped * addends).sum(dim=(2, 3)).reshape(-1)
    assign(module, node, (grouped * factors).reshape(weight.shape), bias)


def group_count(node: Node) -> int:
    given = arguments(node)
    return int(given.get("groups", 1))


def takes_shift(node: Node, shift: Tensor) -> bool:
    """Whether an addend of what a layer is given can go into its bias, which padding with zeros forbids."""
    return not shift.any() or not any(arguments(node).get("padding", ()))


def centrable(module: GraphModule, node: Node) -> bool:
    """Whether the mean over a layer's output channels can be taken out in its weights."""
    return is_layer(module, node) and group_count(node) == 1


def centre_outputs(module: GraphModule, node: Node) -> None:
    """Take the mean over a layer's output channels out of what it gives."""
    weight, bias = numbers(module, node)
    assign(module, node, weight - weight.mean(dim=0), bias - bias.mean())


def takers(module: GraphModule, node: Node, axis: int) -> list[Node] | None:
    """The layers whose inputs' channels are an axis of a node. None where something else takes it as well."""
    found: list[Node] = []
    for user in node.users:
        more = _takers(module, user, node, axis)
        if more is None:
            return None
        found += more
    return found


def _takers(module: GraphModule, user: Node, node: Node, axis: int) -> list[Node] | None:
    if is_layer(module, user) and user.args[0] is node:
        return [user] if axis == output_axis(user) else None
    following = None
    if user.target in axes.VIEWS:
        following = axes.follow(user, axis)
    elif user.target is ATEN.mean.dim:
        following = _behind_mean(user, len(shape(node)), axis)
    return None if following is None else takers(module, user, following)


def _behind_mean(mean: Node, rank: int, axis: int) -> int | None:
    given = arguments(mean)
    gone = {d % rank for d in given["dim"] or range(rank)}
    if axis in gone or given["dtype"] is not None:
        return None
    return axis if given["keepdim"] else axis - sum(d < axis for d in gone)


def mean_over(module: GraphModule, before: Node, x: Node, axis: int) -> Node:
    """The mean over channels with their dimension kept: a product, where they are the last or those of a map."""
    if axis != len(shape(x)) - 1 and (axis, len(shape(x))) != (1, 4):
        return call(before, ATEN.mean.dim, x, [axis], True)
    width = shape(x)[axis]
    last = axis == len(shape(x)) - 1
    kernel = torch.full((1, width) if last else (1, width, 1, 1), 1 / width, dtype=x.meta["val"].dtype)
    weights = keep(module, before, "mean_weights", kernel)
    return call(before, ATEN.linear.default if last else ATEN.conv2d.default, x, weights)
