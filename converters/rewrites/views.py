"""Reshapes and permutations behind each other, as the fewest that do the same."""

from __future__ import annotations

from typing import Any

from torch.fx import GraphModule, Node

from lvexport.converters.rewrites import axes, layers
from lvexport.converters.rewrites.graph import ATEN, call, calls, is_call, prune, replace, shape

# Operations that read an operand of one position again for each of the other's.
BROADCASTING = (ATEN.add.Tensor, ATEN.sub.Tensor, ATEN.mul.Tensor, ATEN.div.Tensor, ATEN.maximum.default)
_EXPANSIONS = (ATEN.expand.default, ATEN.expand_as.default, ATEN.repeat.default)
FLAT = 4  # dimensions of a permutation for which every runtime has a fast kernel


def compose_views(module: GraphModule) -> None:
    """Make every chain of views one permutation between two reshapes, where that is shorter.

    Expansions that change nothing, or that what is behind them does by itself, are left out, as is the concatenation
    of a single tensor, which delegates do not take. What clips moves before
    the views of a layer's output, for there runtimes make it part of the layer.
    """
    for node in calls(module, *_EXPANSIONS):
        _leave_out(node)
    for node in calls(module, ATEN.cat.default):
        operands: Any = node.args[0]
        if len(operands) == 1:
            replace(node, operands[0])
    _compose(module, axes.MOST_DIMENSIONS)
    for node in calls(module, *layers.CLIPS):
        _clip_first(node)


def compose_flat_views(module: GraphModule) -> None:
    """The same, with permutations of at most four dimensions, also where that takes more of them."""
    _compose(module, FLAT)


def limit_views(module: GraphModule, rank: int) -> None:
    """Write only what permutes more than ``rank`` dimensions as permutations of so many at most."""
    _compose(module, rank, shorten=False)


def _leave_out(expansion: Node) -> None:
    source: Any = expansion.args[0]
    before, after = shape(source), shape(expansion)
    if before == after:
        replace(expansion, source)
        return
    repeated = any(a not in (b, 1) for a, b in zip(before[::-1], after[::-1], strict=False))
    for user in list(expansion.users):
        operands = [a for a in user.args[:2] if isinstance(a, Node) and a is not expansion]
        if is_call(user, *BROADCASTING) and not repeated and any(shape(o) == shape(user) for o in operands):
            user.replace_input_with(expansion, source)


def _compose(module: GraphModule, rank: int, shorten: bool = True) -> None:
    for node, found in axes.chains(module):
        shorter = shorten and axes.length(shape(found.source), found.view, rank) < len(found.steps)
        if found.steps and (shorter or found.rank > rank):
            replace(node, axes.emit(node, found.source, found.view, rank))
    prune(module)


def _clip_first(clip: Node) -> None:
    """Clip what a layer gives, where the views between the two serve nothing else."""
    views: list[Node] = []
    source: Any = clip.args[0]
    while is_call(source, *axes.VIEWS) and len(source.users) == 1:
        views.append(source)
        source = source.args[0]
    if views and is_call(source, *layers.LAYERS) and len(source.users) == 1:
        last, first = views[0], views[-1]
        first.update_arg(0, call(first, clip.target, source, *clip.args[1:]))  # type: ignore[arg-type]
        replace(clip, last)
