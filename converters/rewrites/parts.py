"""Parts of what a layer gives, as queries, keys and values are, and the rows of its weights that make them."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from lvexport.converters.rewrites import axes, layers
from lvexport.converters.rewrites.axes import Atom, Dimension, View
from lvexport.converters.rewrites.graph import shape


@dataclass(frozen=True)
class Part:
    """What is read of some of a layer's output channels: ``view`` of all that the layer gives.

    ``inner``, ``outer``: the stride of output channels, and that of what lies outside of them.
    """

    view: View
    inner: int
    outer: int

    @cached_property
    def features(self) -> Dimension:
        """The factors of the view that count output channels, the one with the largest stride first."""
        return tuple(sorted((a for a in self.view.atoms if self.inner <= a[1] < self.outer), key=lambda a: -a[1]))

    @cached_property
    def rows(self) -> Tensor:
        """Which rows of weights make it, in ascending order."""
        rows = torch.tensor([self.view.offset // self.inner])
        for size, stride in self.features:
            rows = (rows[:, None] + torch.arange(size) * (stride // self.inner)).reshape(-1)
        return rows

    @property
    def is_less(self) -> bool:
        """Whether it leaves out some channels."""
        return len(self.rows) < self.outer // self.inner

    @property
    def alone(self) -> View:
        """The same part, of a layer that gives its channels and no others."""
        sizes = [size for size, _ in self.features]
        strides = {atom: self.inner * prod(sizes[i + 1 :]) for i, atom in enumerate(self.features)}

        def moved(atom: Atom) -> Atom:
            size, stride = atom
            if atom in strides:
                return size, strides[atom]
            return (size, stride // self.outer * self.inner * len(self.rows)) if stride >= self.outer else atom

        return View(tuple(tuple(map(moved, dimension)) for dimension in self.view.dimensions))


def parts(layer: Node) -> dict[Node, Part | None]:
    """The parts of a layer's output that something other than a view reads.

    None for one that has not all numbers of some output channels, and for the layer itself where it is read as a whole
    or in a part that is no product of ranges.
    """
    return {node: _part(layer, node, view) for node, view in _read(layer, axes.whole(shape(layer)))}


def _part(layer: Node, node: Node, view: View) -> Part | None:
    axis = layers.output_axis(layer)
    inner = prod(shape(layer)[axis + 1 :])
    outer = inner * shape(layer)[axis]
    others = prod(size for size, stride in view.atoms if not inner <= stride < outer)
    complete = others * (outer // inner) == prod(shape(layer))
    within = view.offset % inner == 0 and view.offset < outer
    return Part(view, inner, outer) if complete and within and node is not layer else None


def _read(node: Node, view: View) -> list[tuple[Node, View]]:
    found: list[tuple[Node, View]] = []
    for user in node.users:
        taken = {} if user.op != "call_function" else _taken(user, view)
        if not taken or any(its is None for its in taken.values()):
            found.append((node, view))
        for part, its in taken.items():
            if its is not None:
                found += _read(part, its)
    return list(dict(found).items())


def _taken(user: Node, view: View) -> dict[Node, View | None]:
    """What a view, or a node that takes a view apart, gives; nothing for all other nodes."""
    if user.target in axes.VIEWS:
        return {user: axes.through(user, view)}
    return axes.parts(user, view) or {}


def source(node: Node) -> Node:
    """What a node is a view or a part of."""
    while node.op == "call_function" and node.target in _READING:
        given: Any = node.args[0]
        node = given
    return node


_READING = {*axes.VIEWS, *axes.TAKERS, operator.getitem}
