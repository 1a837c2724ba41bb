"""Accuracy of a network on pictures it has not learned from."""

from __future__ import annotations

import torch
from torch import nn

from lvexport.training.data import Batches, in_order, loader
from lvexport.training.workers import ALONE, Worker

BATCH = 250


@torch.no_grad()
def accuracy(
    model: nn.Module, data: Batches, imgsz: int, worker: Worker = ALONE, most: int | None = None, processes: int = 0
) -> float:
    """Share of the pictures, all or ``most`` of them, that are classified right at ``imgsz`` pixels a side.

    Several workers share the work, and each is told the result. ``model`` is in evaluation mode.
    """
    # Folders list their pictures class by class, so a part is taken from everywhere in the list.
    chosen = range(0, len(data), -(-len(data) // most) if most else 1)
    right = 0
    for x, y in loader(data, list(in_order(chosen[worker.rank :: worker.workers], imgsz, BATCH)), processes):
        x = x.to(worker.device, memory_format=torch.channels_last)
        right += int((model(x).argmax(1) == y.to(worker.device)).sum())
    return worker.total(right)[0] / len(chosen)
