"""Transpositions of products, left to what takes operands either way round."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch.fx import GraphModule, Node

from lvexport.converters.rewrites import axes, graph, layers
from lvexport.converters.rewrites.axes import View
from lvexport.converters.rewrites.graph import ATEN, arguments, call, calls, is_call, keep, prune, shape, value
from lvexport.converters.rewrites.views import compose_views


def transpose_products(module: GraphModule) -> None:
    """Make products transposed ones, (AB)ᵀ = BᵀAᵀ, where fewer views are left behind them then.

    A linear layer behind such a product becomes a product itself where it is given the transpose of what lies in
    memory. Of use where products read their operands transposed without moving numbers.
    """
    for product in calls(module, ATEN.matmul.default, ATEN.bmm.default):
        a, b = product.args
        if all(isinstance(x, Node) and len(shape(x)) > 1 for x in (a, b)):
            _turn(module, product)
    prune(module)  # what no longer reads a view would keep it from being composed
    compose_views(module)


def _turn(module: GraphModule, product: Node) -> None:
    read = _Read.behind(product)
    if read.end is product:
        return
    own = axes.length(shape(product), read.view, axes.MOST_DIMENSIONS)
    sizes, turned = _turned(shape(product)), _relabelled(read.view, shape(product))
    if axes.length(sizes, turned, axes.MOST_DIMENSIONS) < own:
        read.end.replace_all_uses_with(axes.emit(product, _transposed(product), turned))
        return
    layer = read.layer(module)
    if layer is None:
        return
    *rest, rows, columns = range(len(turned.dimensions))
    swapped = axes.permuted(turned, [*rest, columns, rows])
    if axes.length(sizes, swapped, axes.MOST_DIMENSIONS) < own:
        given = axes.emit(product, _transposed(product), swapped)
        graph.replace(layer, _product_of(module, layer, given))


@dataclass(frozen=True)
class _Read:
    """The last view of a product that nothing else reads, and what it reads of the product."""

    end: Node
    view: View

    @classmethod
    def behind(cls, product: Node) -> _Read:
        end, view = product, axes.whole(shape(product))
        while len(end.users) == 1:
            (user,) = end.users
            following = axes.through(user, view) if is_call(user, *axes.VIEWS) else None
            if following is None:
                break
            end, view = user, following
        return cls(end, view)

    def layer(self, module: GraphModule) -> Node | None:
        """The linear layer that alone reads it, and a batch: without, coremltools makes a layer of it again."""
        if len(self.end.users) != 1 or len(shape(self.end)) < 3:
            return None
        (user,) = self.end.users
        linear = is_call(user, ATEN.linear.default) and layers.is_layer(module, user) and user.args[0] is self.end
        return user if linear else None


def _transposed(product: Node) -> Node:
    """The transpose of a product, as one of its transposed operands."""
    a, b = (call(product, ATEN.transpose.int, x, -2, -1) for x in product.args)
    return call(product, product.target, b, a)  # type: ignore[arg-type]


def _turned(sizes: tuple[int, ...]) -> tuple[int, ...]:
    return (*sizes[:-2], sizes[-1], sizes[-2])


def _relabelled(view: View, sizes: tuple[int, ...]) -> View:
    """The same view of a product, by where its numbers lie in the transposed one."""
    rows, columns = sizes[-2:]

    def moved(atom: axes.Atom) -> axes.Atom:
        size, stride = atom
        if stride >= rows * columns:
            return atom
        return (size, stride // columns) if stride >= columns else (size, stride * rows)

    return replace(view, dimensions=tuple(tuple(map(moved, dimension)) for dimension in view.dimensions))


def _product_of(module: GraphModule, layer: Node, given: Node) -> Node:
    """A linear layer as a product, of the transpose of what it was given."""
    weight, bias = layers.numbers(module, layer)
    kind = value(given).dtype
    columns = weight.T.reshape(*(1 for _ in shape(given)[:-2]), *weight.T.shape)
    factor = keep(module, layer, f"{layer.name}_weight", columns.to(kind))
    product = call(layer, ATEN.matmul.default, call(layer, ATEN.transpose.int, given, -2, -1), factor)
    if arguments(layer)["bias"] is None:
        return product
    return call(layer, ATEN.add.Tensor, product, keep(module, layer, f"{layer.name}_bias", bias.to(kind)))
