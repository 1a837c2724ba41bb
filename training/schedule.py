"""What a training run is determined by, together with the network and the data."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """``sizes``: pixels a side that batches are drawn at; more than one of them makes the training multi-scale.

    ``imgsz``: the size that accuracy is measured at and that the network will be exported for. ``batch``: images in a
    batch at the largest of the sizes, a worker.
    """

    epochs: int = 10
    imgsz: int = 64
    sizes: tuple[int, ...] = (64,)
    batch: int = 128
    lr: float = 2e-3  # at its peak
    weight_decay: float = 0.01  # MobileViT, section 4.1
    warmup: float = 0.05  # share of the samples over which the rate rises from 0
    label_smoothing: float = 0.1  # MobileViT, section 4.1
    ema_decay: float = 0.998
    seed: int = 0


def learning_rate(schedule: Schedule, progress: float) -> float:
    """Linear warm-up, then half a cosine down to 0. ``progress``: share of all samples seen, from 0 to 1.

    It goes by samples because batches of small pictures hold more of them than batches of large ones.
    """
    if progress < schedule.warmup:
        return schedule.lr * progress / schedule.warmup
    phase = (progress - schedule.warmup) / (1 - schedule.warmup)
    return schedule.lr * 0.5 * (1 + math.cos(math.pi * phase))
