"""The layers of a program that integers can compute, and what of the program they are. Importing this loads torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from torch.fx import GraphModule, Node

from lvexport.converters.rewrites import axes, layers
from lvexport.converters.rewrites.graph import ATEN, calls, constant, is_call, is_tensor, shape

_PRODUCTS = (ATEN.bmm.default, ATEN.matmul.default)


@dataclass(frozen=True)
class Site:
    """A convolution or linear layer with constant weights.

    ``source``: the tensor that it is given; ``output``: what it gives, behind an activation that clips only. ``macs``
    of one inference.
    """

    node: Node
    source: Node
    output: Node
    macs: int
    weights: int

    @property
    def name(self) -> str:
        return self.node.name


def sites(module: GraphModule) -> list[Site]:
    """All of them, in the order of the program."""
    found = []
    for node in calls(module, *layers.LAYERS):
        if layers.is_layer(module, node):
            weight = constant(module, node.args[1])
            assert weight is not None
            if len(weight) == 1:  # a mean, such as the variance in a normalisation: few products, and a wide range
                continue
            found.append(Site(node, node.args[0], output(node), _macs(node, weight.shape), weight.numel()))  # type: ignore[arg-type]
    return found


def output(node: Node) -> Node:
    """What a layer gives, behind an activation that clips only."""
    users = list(node.users)
    return users[0] if len(users) == 1 and is_call(users[0], *layers.CLIPS) else node


def _macs(node: Node, weight: tuple[int, ...]) -> int:
    return prod(shape(node)) * prod(weight[1:])


@dataclass(frozen=True)
class Whole:
    """A program's multiply-accumulates, of one inference, and the numbers that its constants have."""

    macs: int
    numbers: int

    def shares(self, of: Iterable[Site]) -> tuple[float, float]:
        """What sites have of the numbers and of the multiply-accumulates."""
        chosen = list(of)
        return sum(s.weights for s in chosen) / self.numbers, sum(s.macs for s in chosen) / self.macs


def whole(module: GraphModule) -> Whole:
    """Of layers and of products of two activations; of all constants that the program uses."""
    layered = sum(site.macs for site in sites(module))
    products = sum(_product_macs(node) for node in calls(module, *_PRODUCTS))
    names = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    state = dict(module.named_parameters()) | dict(module.named_buffers())
    return Whole(layered + products, sum(tensor.numel() for name, tensor in state.items() if name in names))


def _product_macs(node: Node) -> int:
    first = node.args[0]
    assert isinstance(first, Node)
    return prod(shape(node)) * shape(first)[-1]


def origin(node: Node) -> Node:
    """The tensor that a view shows: its numbers are the same, so it has the same range."""
    while is_call(node, *axes.VIEWS) and is_tensor(node.args[0]):
        node = node.args[0]  # type: ignore[assignment]
    return node
