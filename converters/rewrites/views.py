"""Reshapes and permutations behind each other, as the fewest that do the same."""

from __future__ import annotations

from typing import Any

from torch.fx import GraphModule, Node

from lvexport.converters.rewrites import axes, layers
from lvexport.converters.rewrites.graph import call, calls, is_call, prune, replace, shape

FLAT = 4  # dimensions of a permutation for which every runtime has a fast kernel


def compose_views(module: GraphModule) -> None:
    """Make every chain of views one permutation between two reshapes, where that is shorter.

    What clips moves before the views of a layer's output, for there runtimes make it part of the layer.
    """
    _compose(module, axes.MOST_DIMENSIONS)
    for node in calls(module, *layers.CLIPS):
        _clip_first(node)


def compose_flat_views(module: GraphModule) -> None:
    """The same, with permutations of at most four dimensions, also where that takes more of them."""
    _compose(module, FLAT)


def _compose(module: GraphModule, rank: int) -> None:
    for node in calls(module, *axes.VIEWS):
        if all(user.target in axes.VIEWS for user in node.users):
            continue  # the end of the chain does it
        found = axes.chain(node)
        shorter = axes.length(shape(found.source), found.view, rank) < len(found.steps)
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
