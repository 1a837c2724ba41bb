"""The layers of a program that integers can compute, and what of the program they are. Importing this loads torch."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from math import prod
from typing import Any

from torch.fx import GraphModule, Node

from lvexport.converters.macs import macs
from lvexport.converters.rewrites import axes, layers
from lvexport.converters.rewrites.graph import ATEN, calls, constant, is_call, is_tensor, shape


@dataclass(frozen=True)
class Site:
    """A convolution or linear layer with constant weights.

    ``source``: the tensor that it is given; ``output``: what it gives, behind an activation that clips only. ``macs``
    of one inference. ``weight``: the constant's name, which several may share, and ``weights`` how many numbers it has.
    """

    node: Node
    source: Node
    output: Node
    macs: int
    weight: str
    weights: int

    @property
    def name(self) -> str:
        return self.node.name


_OF_ONE_GRID = (*axes.VIEWS, ATEN.max_pool2d.default)


def sites(module: GraphModule) -> list[Site]:
    """All of them, in the order of the program."""
    return [site for site in _layers(module) if not _is_mean(module, site)]


def _layers(module: GraphModule) -> list[Site]:
    found = []
    for node in calls(module, *layers.LAYERS):
        if layers.is_layer(module, node):
            weight, name = constant(module, node.args[1]), str(node.args[1].target)  # type: ignore[union-attr]
            assert weight is not None
            count = prod(shape(node)) * prod(weight.shape[1:])
            found.append(Site(node, node.args[0], output(node), count, name, weight.numel()))  # type: ignore[arg-type]
    return found


def _is_mean(module: GraphModule, site: Site) -> bool:
    """Whether a layer is a mean, such as the variance in a normalisation: few products, and a wide range."""
    weight = constant(module, site.node.args[1])
    return weight is not None and len(weight) == 1


def output(node: Node) -> Node:
    """What a layer gives, behind an activation that clips only."""
    users = list(node.users)
    return users[0] if len(users) == 1 and is_call(users[0], *layers.CLIPS) else node


@dataclass(frozen=True)
class Whole:
    """A program's multiply-accumulates, of one inference, and the numbers that its constants have."""

    macs: int
    numbers: int

    def shares(self, of: Iterable[Site]) -> tuple[float, float]:
        """What sites have of the numbers and of the multiply-accumulates."""
        chosen = list(of)
        weights = {s.weight: s.weights for s in chosen}
        return sum(weights.values()) / self.numbers, sum(s.macs for s in chosen) / self.macs


def whole(module: GraphModule, inputs: tuple[Any, ...]) -> Whole:
    """Of all that multiplies, means aside that were written as layers; of all constants that the program uses."""
    means = sum(site.macs for site in _layers(module) if _is_mean(module, site))
    names = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    state = dict(module.named_parameters()) | dict(module.named_buffers())
    numbers = sum(tensor.numel() for name, tensor in state.items() if name in names)
    return Whole(macs(module, inputs) - means, numbers)


def origin(node: Node) -> Node:
    """The tensor whose numbers a view or a maximum over places gives: they are on its grid, as kernels demand."""
    while is_call(node, *_OF_ONE_GRID) and is_tensor(node.args[0]):
        node = node.args[0]  # type: ignore[assignment]
    return node


def on_grid_of(node: Node, layer_nodes: Collection[Node]) -> Node:
    """The tensor on whose grid a layer's numbers are: that which they are a view of, or are concatenated to.

    Concatenated numbers are on one grid, as kernels of integers demand. What is in none but one concatenation, of which
    layers of integers take all, is rounded to the grid of the whole, which it would be rounded to there anyway.
    """
    whole = node = origin(node)
    while (behind := _joined(whole)) is not None:
        whole = behind
    return whole if _uses(whole) <= set(layer_nodes) else node


def _joined(node: Node) -> Node | None:
    """The only concatenation that takes a tensor, and nothing else does."""
    uses = list(_uses(node))
    return uses[0] if len(uses) == 1 and is_call(uses[0], ATEN.cat.default) else None


def _uses(node: Node) -> set[Node]:
    """What takes a tensor, or views of it."""
    found: set[Node] = set()
    for user in node.users:
        found |= _uses(user) if is_call(user, *_OF_ONE_GRID) else {user}
    return found
