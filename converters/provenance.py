"""Where a node of a program came from, which torch.fx notes down in each node at each pass."""

from __future__ import annotations

from typing import Any


def share() -> None:
    """Let nodes share their history in place of copying it, which takes a fifth of a conversion to ExecuTorch.

    Each pass adds itself to a node's history, and copies all of the history that the node had (torch 2.13,
    ``fx/traceback.py``), so what that takes grows with the square of the passes. Nothing writes in it once it is there.
    """
    from torch.fx.traceback import NodeSource

    def itself(source: NodeSource, memo: dict[int, Any]) -> NodeSource:
        return source

    NodeSource.__deepcopy__ = itself  # type: ignore[attr-defined]
