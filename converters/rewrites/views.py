"""Reshapes and permutations behind each other, as the fewest that do the same."""

from __future__ import annotations

from torch.fx import GraphModule

from lvexport.converters.rewrites import axes
from lvexport.converters.rewrites.graph import calls, prune, replace


def compose_views(module: GraphModule) -> None:
    """Make every chain of views one permutation between two reshapes."""
    _compose(module, rank=6)  # the most dimensions that XNNPACK transposes (XNN_MAX_TENSOR_DIMS, xnnpack.h)


def compose_flat_views(module: GraphModule) -> None:
    """Make every chain of views permutations of at most four dimensions, which runtimes have fast kernels for."""
    _compose(module, rank=4)


def _compose(module: GraphModule, rank: int) -> None:
    for node in calls(module, *axes.VIEWS):
        if all(user.target in axes.VIEWS for user in node.users):
            continue  # the end of the chain does it
        source, view = axes.chain(node)
        if source is not node:
            replace(node, axes.emit(node, source, view, rank))
    prune(module)
