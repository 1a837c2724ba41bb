"""Views as an algebra: which number of its source each number of a view is.

Reshapes, permutations and selections move no numbers but say in which order they are read. A view is written as its
dimensions, each a product of *atoms*, (size, stride) in the source as it lies in memory, row by row: the unfolding of
MobileViT, for instance, which takes five operations to write, is one order of five atoms.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from torch.fx import GraphModule, Node

from lvexport.converters.rewrites.graph import ATEN, arguments, call, calls, is_tensor, shape

MOST_DIMENSIONS = 6  # that XNNPACK transposes (XNN_MAX_TENSOR_DIMS in xnnpack.h)
Atom = tuple[int, int]  # size, stride in the source
Dimension = tuple[Atom, ...]


@dataclass(frozen=True)
class View:
    """What is read of a source: ``offset`` and, dimension by dimension, atoms."""

    dimensions: tuple[Dimension, ...]
    offset: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(prod(size for size, _ in dimension) for dimension in self.dimensions)

    @property
    def atoms(self) -> Dimension:
        return tuple(atom for dimension in self.dimensions for atom in dimension)


def whole(source: tuple[int, ...]) -> View:
    """The view that is the source itself."""
    strides = [prod(source[i + 1 :]) for i in range(len(source))]
    return View(tuple(((size, stride),) if size != 1 else () for size, stride in zip(source, strides, strict=True)))


def reshaped(view: View, new: tuple[int, ...]) -> View | None:
    """Read row by row and cut into another shape. None where atoms would have to be cut unevenly."""
    rest = list(reversed(view.atoms))
    dimensions = []
    for size in new:
        taken = _take(rest, size)
        if taken is None:
            return None
        dimensions.append(taken)
    return replace(view, dimensions=tuple(dimensions))


def _take(rest: list[Atom], size: int) -> Dimension | None:
    """Take atoms that make up ``size`` from the end of a list, cutting the last one where it is too large."""
    taken: list[Atom] = []
    while size != 1:
        if not rest:
            return None
        length, stride = rest.pop()
        if size % length == 0:
            taken.append((length, stride))
            size //= length
        elif length % size == 0:
            taken.append((size, stride * (length // size)))
            rest.append((length // size, stride))
            size = 1
        else:
            return None
    return tuple(taken)


def permuted(view: View, order: list[int]) -> View:
    return replace(view, dimensions=tuple(view.dimensions[i] for i in order))


def relaid(view: View, source: tuple[int, ...], order: tuple[int, ...]) -> View:
    """The same view of a source whose dimensions lie in another order. It is to read all of the source."""
    before = [prod(source[axis + 1 :]) for axis in range(len(source))]
    after = {axis: prod(source[i] for i in order[place + 1 :]) for place, axis in enumerate(order)}

    def moved(atom: Atom) -> Atom:
        size, stride = atom  # of one dimension, for a view is made by cutting these
        axis = next(i for i in order if before[i] <= stride < before[i] * source[i])
        return size, stride // before[axis] * after[axis]

    return View(tuple(tuple(map(moved, dimension)) for dimension in view.dimensions))


def selected(view: View, axis: int, index: int) -> View:
    """One position along an axis, which is gone then."""
    offset = view.offset
    for size, stride in reversed(view.dimensions[axis]):
        offset += index % size * stride
        index //= size
    kept = tuple(d for i, d in enumerate(view.dimensions) if i != axis)
    return View(kept, offset)


def narrowed(view: View, axis: int, start: int, length: int) -> View | None:
    """Some positions in a row. None where the axis is more than one atom, of which a range is no product."""
    if len(view.dimensions[axis]) != 1:
        return None
    ((_, stride),) = view.dimensions[axis]
    dimensions = list(view.dimensions)
    dimensions[axis] = ((length, stride),) if length != 1 else ()
    return View(tuple(dimensions), view.offset + start * stride)


_SHAPING = (
    ATEN.reshape.default,
    ATEN.view.default,
    ATEN.flatten.using_ints,
    ATEN.unflatten.int,
    ATEN.squeeze.dim,
    ATEN.squeeze.dims,
    ATEN.squeeze.default,
    ATEN.unsqueeze.default,
    ATEN._unsafe_view.default,
)
_SAME = (ATEN.contiguous.default, ATEN.clone.default, ATEN.alias.default, ATEN.detach.default, ATEN.dropout.default)
ORDERING = (ATEN.permute.default, ATEN.transpose.int, ATEN.t.default)
VIEWS = (*_SHAPING, *_SAME, *ORDERING)


def order_of(node: Node) -> list[int]:
    """The permutation that a node stands for."""
    given = arguments(node)
    rank = len(shape(node))
    if "dims" in given:
        return [i % rank for i in given["dims"]]
    order = list(range(rank))
    a, b = (given["dim0"] % rank, given["dim1"] % rank) if "dim0" in given else (0, rank - 1)
    order[a], order[b] = order[b], order[a]
    return order


def through(node: Node, view: View) -> View | None:
    """The view of the source that a node gives, from the one that it is given."""
    if node.target in _SAME:
        return view
    if node.target in ORDERING:
        return permuted(view, order_of(node))
    return reshaped(view, shape(node))


def parts(node: Node, view: View) -> dict[Node, View | None] | None:
    """What is taken from a view by a node, as the nodes that give it. None where the node takes nothing apart."""
    taker = _TAKERS.get(node.target)
    return taker(node, view) if taker is not None else None


def _unbound(node: Node, view: View) -> dict[Node, View | None]:
    axis = arguments(node)["dim"] % len(view.dimensions)
    return {user: selected(view, axis, int(user.args[1])) for user in node.users}  # type: ignore[arg-type]


def _split(node: Node, view: View) -> dict[Node, View | None]:
    axis = arguments(node)["dim"] % len(view.dimensions)
    lengths = [piece.shape[axis] for piece in node.meta["val"]]
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    return {u: narrowed(view, axis, starts[u.args[1]], lengths[u.args[1]]) for u in node.users}  # type: ignore[index]


def _select(node: Node, view: View) -> dict[Node, View | None]:
    given = arguments(node)
    axis = given["dim"] % len(view.dimensions)
    return {node: selected(view, axis, given["index"] % view.shape[axis])}


def _slice(node: Node, view: View) -> dict[Node, View | None]:
    given = arguments(node)
    axis = given["dim"] % len(view.dimensions)
    length = view.shape[axis]
    start = given["start"] or 0
    if given["step"] not in (None, 1):
        return {node: None}
    return {node: narrowed(view, axis, start % length if start < 0 else start, shape(node)[axis])}


_TAKERS: dict[Any, Any] = {
    ATEN.unbind.int: _unbound,
    ATEN.split.Tensor: _split,
    ATEN.split_with_sizes.default: _split,
    ATEN.split.sizes: _split,
    ATEN.chunk.default: _split,
    ATEN.select.int: _select,
    ATEN.slice.Tensor: _slice,
}
TAKERS = tuple(_TAKERS)


@dataclass(frozen=True)
class Chain:
    """Views behind each other: what they start from, what of it the last one reads, and the nodes between."""

    source: Node
    view: View
    steps: tuple[Node, ...]

    @property
    def rank(self) -> int:
        """The most dimensions that one of the nodes permutes."""
        return max((len(shape(step)) for step in self.steps if step.target in ORDERING), default=0)


def chain(node: Node) -> Chain:
    """The longest chain of views that ends with a node, that nothing else reads and that can be written as one view."""
    behind: list[Node] = []
    source = node
    while source.target in VIEWS and is_tensor(source.args[0]) and (source is node or len(source.users) == 1):
        behind.insert(0, source)
        source = source.args[0]  # type: ignore[assignment]
    view, first = whole(shape(source)), 0
    for i, step in enumerate(behind):
        following = through(step, view)
        if following is None:  # begin anew from here
            source, view, first = step, whole(shape(step)), i + 1
        else:
            view = following
    return Chain(source, view, tuple(behind[first:]))


def chains(module: GraphModule) -> Iterator[tuple[Node, Chain]]:
    """The chains of views by the nodes that end them, which may be replaced on the way."""
    for node in calls(module, *VIEWS):
        if not all(user.target in VIEWS for user in node.users):
            yield node, chain(node)


def merged(atoms: Dimension) -> Dimension:
    """The atoms with those made one that lie behind each other in the source as well."""
    out: list[Atom] = []
    for size, stride in atoms:
        if out and out[-1][1] == size * stride:
            out[-1] = (out[-1][0] * size, stride)
        else:
            out.append((size, stride))
    return tuple(out)


Step = tuple[tuple[int, ...], tuple[int, ...]]  # a permutation: the sizes that it cuts into, and their order


def emit(before: Node, source: Node, view: View, rank: int = MOST_DIMENSIONS) -> Node:
    """The nodes that read all of a source in a view's order: a reshape, permutations, a reshape; the last of them.

    No permutation has more than ``rank`` dimensions, at least 4: one that would is made of several, each of which
    lets two neighbouring blocks change places.
    """
    node = source
    for sizes, order in route(shape(source), view, rank):
        node = call(before, ATEN.permute.default, reshape(before, node, sizes), list(order))
    return reshape(before, node, view.shape)


def length(source: tuple[int, ...], view: View, rank: int) -> int:
    """How many nodes :func:`emit` makes."""
    return _length(source, view.shape, route(source, view, rank))


def _length(source: tuple[int, ...], target: tuple[int, ...], steps: list[Step]) -> int:
    count, now = len(steps), source
    for sizes, order in steps:
        count += now != sizes
        now = tuple(sizes[i] for i in order)
    return count + (now != target)


def route(source: tuple[int, ...], view: View, rank: int) -> list[Step]:
    """The permutations that lead from a source to a view: those of its own factors, or of as few as there can be."""
    few = _route(merged(view.atoms), rank)
    own = [_step(tuple(sorted(view.atoms, key=lambda atom: -atom[1])), view.atoms)] if few else []
    if own and len(own[0][0]) <= rank and _length(source, view.shape, own) < _length(source, view.shape, few):
        return own
    return few


def _route(wanted: Dimension, rank: int) -> list[Step]:
    atoms = tuple(sorted(wanted, key=lambda atom: -atom[1]))
    steps = []
    while atoms != wanted:
        following = wanted if len(wanted) <= rank else _closer(atoms, wanted)
        steps.append(_joined(atoms, following))
        atoms = following
    return steps


def _step(atoms: Dimension, following: Dimension) -> Step:
    return tuple(size for size, _ in atoms), tuple(atoms.index(atom) for atom in following)


def _joined(atoms: Dimension, following: Dimension) -> Step:
    """A permutation, with neighbours that stay neighbours as one dimension."""
    sizes, order = _step(atoms, following)
    groups: list[list[int]] = []
    for i in order:
        if groups and groups[-1][-1] + 1 == i:
            groups[-1].append(i)
        else:
            groups.append([i])
    ordered = sorted(groups)
    return tuple(prod(sizes[i] for i in g) for g in ordered), tuple(ordered.index(g) for g in groups)


def _closer(atoms: Dimension, wanted: Dimension) -> Dimension:
    """One change of places of two neighbouring blocks towards the wanted order."""
    done = next(i for i, (a, b) in enumerate(zip(atoms, wanted, strict=True)) if a != b)
    at = atoms.index(wanted[done])
    length = 1
    while at + length < len(atoms) and atoms[at + length] == wanted[done + length]:
        length += 1
    return (*atoms[:done], *atoms[at : at + length], *atoms[done:at], *atoms[at + length :])


def reshape(before: Node, node: Node, new: tuple[int, ...]) -> Node:
    return node if shape(node) == new else call(before, ATEN.reshape.default, node, list(new))


def follow(user: Node, axis: int) -> int | None:
    """Where a view puts an axis of what it is given. None where the axis is cut up or joined with others."""
    before, after = _sides(user)
    return None if after is None else _same_dimension(before.dimensions[axis], after)


def origin(node: Node, axis: int) -> int | None:
    """Which axis of what a view is given becomes this one. None where it is made of several or of part of one."""
    before, after = _sides(node)
    return None if after is None else _same_dimension(after.dimensions[axis], before)


def _sides(node: Node) -> tuple[View, View | None]:
    """What a view node is given, as the view that is itself, and what it makes of that."""
    source = node.args[0]
    assert isinstance(source, Node)
    before = whole(shape(source))
    return before, through(node, before)


def _same_dimension(dimension: Dimension, view: View) -> int | None:
    """Where a view has a dimension as it is; nowhere where that has one position, which all such share."""
    return view.dimensions.index(dimension) if dimension and dimension in view.dimensions else None
