"""Reshapes and permutations behind each other, as the fewest that do the same."""

from __future__ import annotations

from torch.fx import GraphModule

from lvexport.converters.rewrites import axes
from lvexport.converters.rewrites.graph import calls, prune, replace, shape

FLAT = 4  # dimensions of a permutation for which every runtime has a fast kernel


def compose_views(module: GraphModule) -> None:
    """Make every chain of views one permutation between two reshapes, where that is shorter."""
    _compose(module, axes.MOST_DIMENSIONS)


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
