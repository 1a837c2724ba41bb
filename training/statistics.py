"""Batch normalisation's statistics, taken anew for the size that a network will be used at."""

from __future__ import annotations

from torch import nn
from torch.optim.swa_utils import update_bn

from lvexport.training.data import Batches, in_order, loader
from lvexport.training.workers import Worker

SAMPLES = 4096
BATCH = 128


def refresh(model: nn.Module, data: Batches, imgsz: int, epoch: int, worker: Worker, processes: int) -> None:
    """Replace the running statistics by those of ``SAMPLES`` training pictures at ``imgsz`` pixels a side.

    ``epoch``: the pictures are those of that epoch. The first may have easier ones (:mod:`.collages`).

    Running statistics mix all sizes that were trained at, and those of the weights before the last (Wu and Johnson,
    arXiv 2105.07576, sections 3 and 5; Touvron et al., arXiv 1906.06423, on the size). Every worker does the same.
    """
    chosen = range(0, len(data), -(-len(data) // SAMPLES))
    batches = [picks for picks in in_order(chosen, imgsz, BATCH, epoch) if len(picks) > 1]  # one has no variance
    update_bn(loader(data, batches, processes), model, device=worker.device)
