"""Normalisation folded into weights, or written as operations that delegates take."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import sqrt
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from lvexport.converters.rewrites import axes, layers
from lvexport.converters.rewrites.graph import (
    ATEN,
    arguments,
    call,
    calls,
    constant,
    is_call,
    prune,
    replace,
    shape,
    value,
    wide,
)


def fold_batch_norms(module: GraphModule) -> None:
    """Give layers the weights that make the batch normalisation behind or before them superfluous."""
    for norm in calls(module, ATEN.batch_norm.default):
        factors = _batch_norm(module, norm)
        if factors is not None and (_fold_backwards(module, norm, *factors) or _fold_forwards(module, norm, *factors)):
            replace(norm, norm.args[0])  # type: ignore[arg-type]
    prune(module)


def _batch_norm(module: GraphModule, norm: Node) -> tuple[Tensor, Tensor] | None:
    """Factor and addend for every channel; None where they depend on the batch."""
    given = arguments(norm)
    mean, variance = constant(module, given["running_mean"]), constant(module, given["running_var"])
    if given["training"] or mean is None or variance is None:
        return None
    gamma, beta = constant(module, given["weight"]), constant(module, given["bias"])
    scale = (wide(variance) + given["eps"]).rsqrt()
    if gamma is not None:
        scale = scale * wide(gamma)
    shift = -wide(mean) * scale
    return scale, shift if beta is None else shift + wide(beta)


def _fold_backwards(module: GraphModule, norm: Node, scale: Tensor, shift: Tensor) -> bool:
    producer = norm.args[0]
    if not layers.is_layer(module, producer) or len(producer.users) > 1 or layers.output_axis(producer) != 1:  # type: ignore[union-attr,arg-type]
        return False
    layers.transform_outputs(module, producer, scale, shift)  # type: ignore[arg-type]
    return True


def _fold_forwards(module: GraphModule, norm: Node, scale: Tensor, shift: Tensor) -> bool:
    takers = layers.takers(module, norm, 1)
    if not takers or not all(layers.takes_shift(t, shift) for t in takers):
        return False
    for taker in takers:
        layers.transform_inputs(module, taker, scale, shift)
    return True


def fold_norm_affines(module: GraphModule) -> None:
    """Fold factors and addends of layer, group and RMS normalisations into the layers that take what they give."""
    for norm in calls(module, ATEN.layer_norm.default, ATEN.group_norm.default, ATEN.rms_norm.default):
        given = arguments(norm)
        gamma, beta = constant(module, given["weight"]), constant(module, given.get("bias"))
        if gamma is None or gamma.ndim != 1:
            continue
        axis = 1 if norm.target is ATEN.group_norm.default else len(shape(norm)) - 1
        shift = torch.zeros_like(gamma) if beta is None else beta
        takers = layers.takers(module, norm, axis)
        if not takers or not all(layers.takes_shift(t, shift) for t in takers):
            continue
        for taker in takers:
            layers.transform_inputs(module, taker, wide(gamma), wide(shift))
        affine = [name for name in ("weight", "bias") if name in given]
        norm.args = (given["input"], norm.args[1], *(None for _ in affine), given["eps"])
        norm.kwargs = {}
    prune(module)


def spell_layer_norms(module: GraphModule) -> None:
    """Write layer and RMS normalisation as products: x·rsqrt((x²)V + ε), V being the mean over channels.

    The x of layer normalisation is centred: where only normalisations read a sum, its mean is taken out in the weights
    of the layers that are added up, for nothing sees it; elsewhere by a product of its own, x - xV.
    """
    centred = Centred(module)
    for norm in calls(module, ATEN.layer_norm.default, ATEN.rms_norm.default):
        if len(arguments(norm)["normalized_shape"]) == 1:
            # Which may put something else there.
            reached = norm.target is ATEN.rms_norm.default or centred.reach(arguments(norm)["input"])
            replace(norm, _spelled(module, norm, arguments(norm) | {"eps": epsilon(norm)}, reached))
    prune(module)


def centre_layer_norms(module: GraphModule) -> None:
    """Write layer normalisation as RMS normalisation where what it reads can be centred at its sources.

    In weights; or by an operation, for at least two normalisations, since one alone gains less than that takes.
    """
    centred = Centred(module)
    for norm in reversed(calls(module, ATEN.layer_norm.default)):  # what the last one reads has most sums behind it
        if len(arguments(norm)["normalized_shape"]) == 1 and centred.reach(arguments(norm)["input"], least=2):
            given = arguments(norm)  # which may have something else put there
            y = call(norm, ATEN.rms_norm.default, *(given[of] for of in ("input", "normalized_shape", "weight", "eps")))
            replace(norm, y if given["bias"] is None else call(norm, ATEN.add.Tensor, y, given["bias"]))
    prune(module)


def spell_fused_rms_norms(module: GraphModule) -> None:
    """Write RMS normalisation as x/√(mean(x²) + ε), which ONNX Runtime finds and computes in one pass.

    Its fusion takes powers, a mean, a root and a quotient; torch's exporter writes a reciprocal and a product, which it
    does not (onnxruntime/core/optimizer/layer_norm_fusion.cc, SimplifiedLayerNormFusion).
    """
    for norm in calls(module, ATEN.rms_norm.default):
        given = arguments(norm)
        x, dims = given["input"], [-1 - i for i in range(len(given["normalized_shape"]))]
        mean = call(norm, ATEN.mean.dim, call(norm, ATEN.pow.Tensor_Scalar, x, 2.0), dims, True)
        root = call(norm, ATEN.sqrt.default, call(norm, ATEN.add.Scalar, mean, epsilon(norm)))
        y = call(norm, ATEN.div.Tensor, x, root)
        replace(norm, y if given["weight"] is None else call(norm, ATEN.mul.Tensor, y, given["weight"]))
    prune(module)


_SMALLEST = 2.0**-14  # of half precision, smaller numbers aside that have fewer digits


def spell_rms_norms(module: GraphModule) -> None:
    """Write RMS normalisation as x/m·rsqrt(mean((x/m)²) + (√ε/m)²), m being the largest magnitude.

    So that no square leaves the range of half precision. coremltools 9 divides by m too, but adds ε itself behind that.
    """
    for norm in calls(module, ATEN.rms_norm.default):
        given = arguments(norm)
        x, dims = given["input"], [-1 - i for i in range(len(given["normalized_shape"]))]
        size = call(norm, ATEN.amax.default, call(norm, ATEN.abs.default, x), dims, True)
        size = call(norm, ATEN.clamp.default, size, _SMALLEST)
        small = call(norm, ATEN.div.Tensor, x, size)
        mean = call(norm, ATEN.mean.dim, call(norm, ATEN.mul.Tensor, small, small), dims, True)
        root = call(norm, ATEN.mul.Scalar, call(norm, ATEN.reciprocal.default, size), sqrt(epsilon(norm)))
        added = call(norm, ATEN.add.Tensor, mean, call(norm, ATEN.mul.Tensor, root, root))
        y = call(norm, ATEN.mul.Tensor, small, call(norm, ATEN.rsqrt.default, added))
        replace(norm, y if given["weight"] is None else call(norm, ATEN.mul.Tensor, y, given["weight"]))
    prune(module)


def epsilon(norm: Node) -> float:
    """What a normalisation adds to the mean of squares."""
    given: float | None = arguments(norm)["eps"]
    return torch.finfo(value(norm).dtype).eps if given is None else given


def spell_vector_norms(module: GraphModule) -> None:
    """Write Euclidean norms as roots of sums of squares, since delegates take no power."""
    for norm in calls(module, ATEN.linalg_vector_norm.default):
        given = arguments(norm)
        x: Node = given["self"]
        if given["ord"] == 2 and given["dim"] and given["dtype"] is None:
            squares = call(norm, ATEN.mul.Tensor, x, x)
            total = call(norm, ATEN.sum.dim_IntList, squares, given["dim"], given["keepdim"])
            replace(norm, call(norm, ATEN.sqrt.default, total))
    prune(module)


def _spelled(module: GraphModule, norm: Node, given: dict[str, Any], centred: bool) -> Node:
    x: Node = given["input"]
    last = len(shape(x)) - 1
    if not centred:
        x = call(norm, ATEN.sub.Tensor, x, layers.mean_over(module, norm, x, last))
    variance = layers.mean_over(module, norm, call(norm, ATEN.mul.Tensor, x, x), last)
    inverse = call(norm, ATEN.rsqrt.default, call(norm, ATEN.add.Tensor, variance, given["eps"]))
    y = call(norm, ATEN.mul.Tensor, x, inverse)
    for operation, operand in ((ATEN.mul.Tensor, given["weight"]), (ATEN.add.Tensor, given.get("bias"))):
        if operand is not None:
            y = call(norm, operation, y, operand)
    return y


class Centred:
    """The sums from which the mean over channels has been taken at their sources."""

    def __init__(self, module: GraphModule) -> None:
        self.module = module
        self.nodes: set[Node] = set()

    def reach(self, node: Node, least: int = 1) -> bool:
        """Centre what a layer normalisation reads, one of its sources by an operation at most.

        By that only for ``least`` normalisations or more.
        """
        inner: list[Node] = []
        sources: list[tuple[Node, int]] = []
        costs = self._collect(node, len(shape(node)) - 1, inner, sources)
        readers = {u for n in (*inner, *(source for source, _ in sources)) for u in n.users if is_layer_norm(u)}
        if costs and len(readers) < least:
            return False
        for source, axis in sources:
            if self._is_free_layer(source, axis):
                layers.centre_outputs(self.module, source)
                self.nodes.add(source)
            else:
                self._centre_behind(source, axis, inner)
        self.nodes.update(inner)
        return True

    def _collect(self, node: Node, axis: int, inner: list[Node], sources: list[tuple[Node, int]]) -> int:
        """Sort what a node is the sum of into sums on the way there and sources; how many of these cost an operation.

        That is one at most: a sum of more is a source itself.
        """
        if node in self.nodes or node in inner or (node, axis) in sources:
            return 0
        before = _summands(node, axis)
        if before is None or not _is_free(node, axis):
            sources.append((node, axis))
            return 0 if self._is_free_layer(node, axis) else 1
        sums, found = len(inner), len(sources)
        inner.append(node)
        if (costs := sum(self._collect(*summand, inner, sources) for summand in before)) > 1:
            del inner[sums:], sources[found:]
            sources.append((node, axis))
        return min(costs, 1)

    def _is_free_layer(self, node: Node, axis: int) -> bool:
        centrable = layers.centrable(self.module, node) and layers.output_axis(node) == axis
        return centrable and _is_free(node, axis)

    def _centre_behind(self, source: Node, axis: int, inner: list[Node]) -> None:
        readers = [u for u in source.users if u in inner or is_layer_norm(u)]
        first = next(n for n in self.module.graph.nodes if n in readers)
        centred = call(first, ATEN.sub.Tensor, source, layers.mean_over(self.module, first, source, axis))
        for reader in readers:
            reader.replace_input_with(source, centred)
        self.nodes.add(centred)


def is_layer_norm(node: Node) -> bool:
    return is_call(node, ATEN.layer_norm.default)


def is_sum(node: Node) -> bool:
    """Whether a node adds two tensors of its own shape."""
    return (
        is_call(node, ATEN.add.Tensor)
        and "alpha" not in node.kwargs
        and all(isinstance(a, Node) and shape(a) == shape(node) for a in node.args[:2])
    )


def _summands(node: Node, axis: int) -> list[tuple[Node, int]] | None:
    """What a node adds up, with the axis there; None where it adds up nothing."""
    if is_sum(node):
        return [(a, axis) for a in node.args[:2] if isinstance(a, Node)]
    if node.op == "call_function" and node.target in axes.VIEWS:
        origin = axes.origin(node, axis)
        return None if origin is None else [(node.args[0], origin)]  # type: ignore[list-item]
    return None


def _is_free(node: Node, axis: int) -> bool:
    """Whether nothing that reads a node sees its mean over an axis."""
    return all(_is_blind(user, node, axis) for user in node.users)


def _is_blind(user: Node, node: Node, axis: int) -> bool:
    if is_layer_norm(user):
        return axis == len(shape(node)) - 1 and len(arguments(user)["normalized_shape"]) == 1
    if is_sum(user):
        return _is_free(user, axis)
    if user.op == "call_function" and user.target in axes.VIEWS:
        following = axes.follow(user, axis)
        return following is not None and _is_free(user, following)
    return False


def spell_group_norms(module: GraphModule) -> None:
    """Write group normalisation over all channels as means over the map and over channels, in two passes."""
    _spell_group_norms(module, _mean_in_two)


def spell_whole_norms(module: GraphModule) -> None:
    """The same with means over map and channels at once, which takes no view with a dimension for the group."""
    _spell_group_norms(module, lambda _, norm, x: call(norm, ATEN.mean.dim, x, [1, 2, 3], True))


Mean = Callable[[GraphModule, Node, Node], Node]  # of a map, in front of a node


def _mean_in_two(module: GraphModule, norm: Node, x: Node) -> Node:
    return layers.mean_over(module, norm, call(norm, ATEN.mean.dim, x, [2, 3], True), 1)


def _spell_group_norms(module: GraphModule, mean: Mean) -> None:
    for norm in calls(module, ATEN.group_norm.default):
        given = arguments(norm)
        if given["num_groups"] == 1 and value(norm).ndim == 4:
            replace(norm, _spelled_group_norm(norm, given, partial(mean, module, norm)))
    prune(module)


def _spelled_group_norm(norm: Node, given: dict[str, Any], mean: Callable[[Node], Node]) -> Node:
    x: Node = given["input"]
    centred = call(norm, ATEN.sub.Tensor, x, mean(x))
    variance = mean(call(norm, ATEN.mul.Tensor, centred, centred))
    inverse = call(norm, ATEN.rsqrt.default, call(norm, ATEN.add.Tensor, variance, given["eps"]))
    y = call(norm, ATEN.mul.Tensor, centred, inverse)
    for operation, operand in ((ATEN.mul.Tensor, given["weight"]), (ATEN.add.Tensor, given["bias"])):
        if operand is not None:
            y = call(norm, operation, y, call(norm, ATEN.reshape.default, operand, [1, -1, 1, 1]))
    return y
