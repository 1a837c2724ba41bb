"""Which channels of which tensors may be scaled together, the function staying the same. Importing this loads torch.

Dividing what a layer gives by s, channel by channel, and multiplying what the layers behind it take by s changes
nothing, if all between is linear in each channel. Every number of every tensor gets the name of its channel here; an
operation that adds two says that both scale alike, a product over channels that one scales as the other's inverse, and
anything else that its channels cannot be scaled. What is left are classes of channels with one free factor each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from lvexport.converters.rewrites import axes, layers
from lvexport.converters.rewrites.graph import ATEN, arguments, constant, is_call, is_tensor, shape

FIXED = 0  # the name of all channels that cannot be scaled
_SUMS = (ATEN.add.Tensor, ATEN.sub.Tensor)
_LARGER = (ATEN.maximum.default, ATEN.minimum.default)  # factors are positive
_HOMOGENEOUS = (ATEN.relu.default, ATEN.leaky_relu.default, ATEN.prelu.default, ATEN.abs.default)
_PRODUCTS = (ATEN.bmm.default, ATEN.matmul.default)
_PARTS = (ATEN.slice.Tensor, ATEN.select.int, ATEN.expand.default)
_POOLS = (ATEN.avg_pool2d.default, ATEN.max_pool2d.default)
_MEANS = (ATEN.mean.dim, ATEN.adaptive_avg_pool2d.default)


@dataclass(frozen=True)
class Channels:
    """``inputs`` and ``outputs``: of each layer, the name of every channel that it takes or gives. ``constants``: the
    name of every number that is added. ``tensors``: of each node, a name for every number.

    ``classes``: name → class; ``inverses``: name → the class whose factor is the inverse. Class of FIXED: factor 1.
    """

    inputs: dict[Node, Tensor]
    outputs: dict[Node, Tensor]
    constants: dict[Node, Tensor]
    tensors: dict[Node, Tensor]
    classes: Tensor
    inverses: Tensor

    def free(self) -> Tensor:
        """(classes,): whether a class has a factor that may be chosen."""
        count = int(self.classes.max().maximum(self.inverses.max())) + 1
        free = torch.ones(count, dtype=torch.bool)
        free[self.classes[FIXED]] = False
        free[self.classes[self.classes == self.inverses]] = False
        return free


def channels(module: GraphModule) -> Channels:
    """Name all channels of a program, and find which scale together."""
    naming = _Naming(module)
    for node in module.graph.nodes:
        naming.name(node)
    classes = naming.classes()
    return Channels(naming.inputs, naming.outputs, naming.constants, naming.names, *classes)


class _Naming:
    """One pass over a program."""

    def __init__(self, module: GraphModule) -> None:
        self.module = module
        self.names: dict[Node, Tensor] = {}
        self.inputs: dict[Node, Tensor] = {}
        self.outputs: dict[Node, Tensor] = {}
        self.constants: dict[Node, Tensor] = {}
        self.count = 1
        self.alike: list[tuple[Tensor, Tensor]] = []
        self.inverse: list[tuple[Tensor, Tensor]] = []

    def name(self, node: Node) -> None:
        if layers.is_layer(self.module, node):
            self._layer(node)
        elif not is_tensor(node):
            self._fix_all(node)
        elif node.op == "call_function" and (names := self._through(node)) is not None:
            self.names[node] = names
        elif node.op != "get_attr":
            self._fix_all(node)
            self.names[node] = torch.full(shape(node), FIXED)

    def _fresh(self, count: int) -> Tensor:
        self.count += count
        return torch.arange(self.count - count, self.count)

    def _fix_all(self, node: Node) -> None:
        for given in node.all_input_nodes:
            if given in self.names:
                self._fix(self.names[given])

    def _fix(self, names: Tensor) -> None:
        found = torch.unique(names)
        self.alike.append((found, torch.full_like(found, FIXED)))

    def _same(self, a: Tensor, b: Tensor) -> None:
        pairs = torch.unique(torch.stack([a.reshape(-1), b.reshape(-1)]), dim=1)
        self.alike.append((pairs[0], pairs[1]))

    def _collapsed(self, names: Tensor, axis: int) -> Tensor:
        """One name for each position along an axis, all that stand there being made the same."""
        rows = names.movedim(axis, 0).flatten(1)
        first = rows[:, :1]
        if not bool((rows == first).all()):
            self._same(rows, first.expand_as(rows))
        return first[:, 0]

    def _layer(self, node: Node) -> None:
        axis = layers.output_axis(node)
        source = node.args[0]
        assert isinstance(source, Node)
        names = self._of(source)
        assert names is not None
        self.inputs[node] = self._collapsed(names, axis)
        self.outputs[node] = names = self._fresh(shape(node)[axis])
        at = [1] * len(shape(node))
        at[axis] = -1
        self.names[node] = names.reshape(at).expand(shape(node))

    def _through(self, node: Node) -> Tensor | None:
        """The names behind an operation that scales as what it is given; None for any other."""
        for targets, rule in self._rules():
            if is_call(node, *targets):
                return rule(node)
        return None

    def _rules(self) -> tuple[tuple[tuple[Any, ...], Callable[[Node], Tensor | None]], ...]:
        return (
            (axes.VIEWS, self._view),
            (_PARTS, self._view),
            (_HOMOGENEOUS, self._kept),
            (_POOLS, self._pooled),
            (_SUMS + _LARGER, self._sum),
            ((ATEN.mul.Tensor,), self._gated),
            (_PRODUCTS, self._product),
            (_MEANS, self._mean),
            ((ATEN.cat.default,), self._joined),
        )

    def _view(self, node: Node) -> Tensor | None:
        names = self._of(node.args[0])
        if names is None:
            return None
        moved: Tensor = node.target(names, *node.args[1:], **node.kwargs)  # type: ignore[operator]
        return moved

    def _kept(self, node: Node) -> Tensor | None:
        for slope in node.args[1:]:  # of a leaky ReLU, which may be a tensor
            if slope in self.names:
                self._fix(self.names[slope])  # type: ignore[index]
        return self.names.get(node.args[0])  # type: ignore[arg-type]

    def _pooled(self, node: Node) -> Tensor | None:
        names = self._of(node.args[0])
        if names is None:
            return None
        first = names[..., :1, :1]
        self._same(names, first.expand_as(names))
        return first.expand(shape(node))

    def _of(self, node: Any) -> Tensor | None:
        """The names of a node; of a constant, new ones. None for what is no tensor."""
        if not isinstance(node, Node):
            return None
        if node not in self.names:
            value = constant(self.module, node)
            if value is None:
                return None
            self.names[node] = self._fresh(value.numel()).reshape(value.shape)
            self.constants[node] = self.names[node]
        return self.names[node]

    def _named(self, node: Any, like: Node) -> Tensor | None:
        """The names of a summand, in the sum's shape."""
        names = self._of(node)
        return None if names is None else names.expand(shape(like))

    def _sum(self, node: Node) -> Tensor | None:
        if node.kwargs.get("alpha", 1) != 1:
            return None
        a, b = (self._named(arg, node) for arg in node.args[:2])
        if a is None or b is None:
            return None
        self._same(a, b)
        return a

    def _gated(self, node: Node) -> Tensor | None:
        """A product of two tensors: what of the two is the larger scales it, the other one stays as it is."""
        a, b = node.args[:2]
        if not isinstance(a, Node) or not isinstance(b, Node) or a is b:
            return None
        if shape(a) != shape(node):
            a, b = b, a
        if shape(a) != shape(node) or a not in self.names:
            return None
        if b in self.names:
            self._fix(self.names[b])
        return self.names[a]

    def _product(self, node: Node) -> Tensor | None:
        """(…, n, k) @ (…, k, m): k's channels scale inversely, or, of attention's weights, not at all; m's do."""
        a, b = node.args[:2]
        if a not in self.names or b not in self.names or a is b:
            return None
        first, second = self.names[a], self.names[b]  # type: ignore[index]
        if first.ndim != second.ndim or first.shape[:-2] != second.shape[:-2]:
            return None
        if bool((first == FIXED).all()):  # weights of a mean: what is averaged has to scale alike
            self._same(second, second[..., :1, :].expand_as(second))
            return second[..., :1, :].expand(shape(node)).contiguous()
        rows = first[..., :1, :]
        self._same(first, rows.expand_as(first))
        columns = second[..., :1]
        self._same(second, columns.expand_as(second))
        pairs = torch.unique(torch.stack([rows.reshape(-1), columns.reshape(-1)]), dim=1)
        self.inverse.append((pairs[0], pairs[1]))
        return torch.full(shape(node), FIXED)

    def _mean(self, node: Node) -> Tensor | None:
        """Means over all but the channels."""
        names = self._of(node.args[0])
        if names is None:
            return None
        given = arguments(node)
        over = [d % names.ndim for d in given["dim"] or range(names.ndim)] if "dim" in given else [2, 3]
        if "dim" not in given and (names.ndim != 4 or shape(node)[2:] != (1, 1)):
            return None
        first = names
        for axis in over:
            first = first.narrow(axis, 0, 1)
        self._same(names, first.expand_as(names))
        return first.reshape(shape(node))

    def _joined(self, node: Node) -> Tensor | None:
        parts = [self._of(part) for part in node.args[0]]  # type: ignore[union-attr]
        if any(part is None for part in parts):
            return None
        return torch.cat([part for part in parts if part is not None], *node.args[1:], **node.kwargs)  # type: ignore[arg-type]

    def classes(self) -> tuple[Tensor, Tensor]:
        """Of each name the class of its factor, and that of its factor's inverse."""
        n = self.count
        edges = [torch.stack([a, b]) for a, b in self.alike]
        edges += [pair + n for pair in edges]
        edges += [torch.stack([a + s, b + n - s]) for a, b in self.inverse for s in (0, n)]
        edges.append(torch.tensor([[FIXED], [n + FIXED]]))
        both = connected(torch.cat(edges, dim=1), 2 * n)
        return both[:n], both[n:]


def connected(edges: Tensor, count: int) -> Tensor:
    """(count,): a number for each node of a graph, from zero, the same for all that edges, (2, n), connect."""
    label = torch.arange(count)
    while True:
        least = torch.minimum(label[edges[0]], label[edges[1]])
        lower = label.clone()
        for end in label[edges]:
            lower.scatter_reduce_(0, end, least, "amin")
        lower = lower[lower]
        if torch.equal(lower, label):
            found: Tensor = torch.unique(label, return_inverse=True)[1]
            return found
        label = lower
