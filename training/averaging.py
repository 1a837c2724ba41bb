"""The exponential moving average of a network's weights and statistics, which is what is kept in the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def average(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of ``model`` that follows it, one step at each ``update_parameters(model)``."""
    follower = AveragedModel(model, multi_avg_fn=_follow(decay), use_buffers=True)
    return follower.requires_grad_(False).eval()


def _follow(decay: float) -> Callable[[Any, Any, Any], None]:
    @torch.no_grad()
    def follow(averages: list[Tensor], values: list[Tensor], updates: Tensor) -> None:
        if not averages[0].is_floating_point():  # batch counters
            torch._foreach_copy_(averages, values)
            return
        # Young averages move faster: at step t a decay near 1 would still hold on to the random start.
        step = int(updates)
        torch._foreach_lerp_(averages, values, 1 - min(decay, (1 + step) / (10 + step)))

    return follow
