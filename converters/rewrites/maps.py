"""Views of maps in the order in which runtimes keep these: channels last."""

from __future__ import annotations

from typing import Any

from torch.fx import GraphModule, Node

from lvexport.converters.rewrites import axes, layers
from lvexport.converters.rewrites.graph import ATEN, call, calls, is_call, is_tensor, prune, replace, shape
from lvexport.converters.rewrites.views import BROADCASTING, FLAT

LAST, FIRST = (0, 2, 3, 1), (0, 3, 1, 2)  # the orders that put the channels of a map last, and back
_ON_MAPS = (
    ATEN.conv2d.default,
    ATEN.batch_norm.default,
    ATEN.avg_pool2d.default,
    ATEN.max_pool2d.default,
    ATEN.adaptive_avg_pool2d.default,
    ATEN.upsample_bilinear2d.vec,
)
# Operations that give their numbers in the order that they are given them in.
_ANY_ORDER = (
    *layers.CLIPS,
    *BROADCASTING,
    ATEN.hardswish.default,
    ATEN.hardsigmoid.default,
    ATEN.sigmoid.default,
    ATEN.silu.default,
    ATEN.gelu.default,
    ATEN.tanh.default,
    ATEN.minimum.default,
    ATEN.clamp.default,
    ATEN.cat.default,
)


def keep_channels_last(module: GraphModule) -> None:
    """Move the channels of maps last at once, or first only in the end, where views take them to last places or from.

    Runtimes for processors keep maps with channels last, so that this moves nothing: tokens of a map are that map as it
    lies, and MobileViT's patches are blocks of its rows. Where channels would move even so, views stay as they are.
    """
    given, taken = _given_as_maps(module), _taken_as_maps(module)
    for node, found in axes.chains(module):
        after_map = found.source in given
        before_map = node in taken and _is_map(node)
        if found.steps and (after_map or before_map):
            _reorder(node, found, after_map, before_map)
    for node in calls(module, *_ANY_ORDER):
        _move_behind(node)
    prune(module)


def _reorder(node: Node, found: axes.Chain, after_map: bool, before_map: bool) -> None:
    source = shape(found.source)
    lying = tuple(source[i] for i in LAST) if after_map else source
    view = axes.relaid(found.view, source, LAST) if after_map else found.view
    if before_map:
        view = axes.permuted(view, list(LAST))
    rank = max(FLAT, found.rank)
    moving = sum(step.target in axes.ORDERING for step in found.steps) + after_map + before_map
    steps = axes.route(lying, view, rank)
    if len(steps) >= moving or any(order[-1] != len(order) - 1 for _, order in steps):
        return
    start = call(node, ATEN.permute.default, found.source, list(LAST)) if after_map else found.source
    end = axes.emit(node, start, view, rank)
    replace(node, _channels_first(node, end) if before_map else end)


def _move_behind(node: Node) -> None:
    """Work number by number on channels that lie last, before they are moved first.

    So that the operation on maps that follows takes what was moved at once: runtimes leave out the two together.
    """
    operands = [x for x in node.all_input_nodes if is_tensor(x)]
    moved = {x: before for x in operands if (before := _before_channels_first(x)) is not None}
    if node.target is ATEN.cat.default or not moved:
        return
    if any(x not in moved and _has_places(x) for x in operands):
        return
    last = {x: moved[x] if x in moved else _channels_last(node, x) for x in operands}
    arguments = [last[x] if isinstance(x, Node) else x for x in node.args]
    done = call(node, node.target, *arguments, **node.kwargs)  # type: ignore[arg-type]
    replace(node, _channels_first(node, done))


def _channels_first(before: Node, x: Node) -> Node:
    """A map with its channels moved first, in a tensor that torch takes for one that always had them there.

    For what it gives it would choose channels last as well, and take pooling apart into what delegates have not.
    """
    return call(before, ATEN.contiguous.default, call(before, ATEN.permute.default, x, list(FIRST)))


def _before_channels_first(x: Node) -> Node | None:
    """What :func:`_channels_first` was given, where it made a tensor."""
    moving: Any = x.args[0] if is_call(x, ATEN.contiguous.default) else None
    if not is_call(moving, ATEN.permute.default) or axes.order_of(moving) != list(FIRST):
        return None
    source: Node = moving.args[0]
    return source


def _channels_last(before: Node, x: Node) -> Node:
    """A tensor that is the same at all places, with its channels last."""
    return axes.reshape(before, x, tuple(shape(x)[axis] for axis in LAST))


def _is_map(node: Node) -> bool:
    """Whether a tensor has the dimensions of a map, of several channels and places."""
    return is_tensor(node) and len(shape(node)) == len(LAST) and shape(node)[1] > 1 and _has_places(node)


def _has_places(x: Node) -> bool:
    """Whether a tensor is anything but a map of a single place."""
    return len(shape(x)) != len(LAST) or max(shape(x)[2:]) > 1


def _operands(node: Node) -> list[Node]:
    """The tensors that a node reads place by place; what is the same at all places has no order."""
    return [x for x in node.all_input_nodes if is_tensor(x) and _has_places(x)]


def _given_as_maps(module: GraphModule) -> set[Node]:
    """What runtimes keep with channels last: what is made of maps by operations on these, or number by number."""
    found: set[Node] = set()
    for node in module.graph.nodes:
        on_maps = is_call(node, *_ON_MAPS)
        if _is_map(node) and (on_maps or (is_call(node, *_ANY_ORDER) and set() < set(_operands(node)) <= found)):
            found.add(node)
    return found


def _taken_as_maps(module: GraphModule) -> set[Node]:
    """What operations on maps are given, at once or through others that work number by number."""
    found: set[Node] = set()
    for node in reversed(module.graph.nodes):
        if is_call(node, *_ON_MAPS):
            first: Any = node.args[0]
            found.add(first)
        elif node in found and is_call(node, *_ANY_ORDER):
            found.update(_operands(node))
    return found
