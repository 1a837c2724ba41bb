"""Training in several processes at once, as ``torchrun`` starts them, or in this one alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Worker:
    """This process's place among all that train the same network."""

    rank: int = 0
    workers: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes files and reports."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        return self.workers == 1

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model with its gradients averaged over all workers."""
        return model if self.alone else DistributedDataParallel(model)

    def total(self, *numbers: float) -> list[float]:
        """Sums over all workers."""
        sums = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        if not self.alone:
            distributed.all_reduce(sums)
        return sums.tolist()


ALONE = Worker()


@contextmanager
def join() -> Iterator[Worker]:
    """Join the other workers that ``torchrun`` started (it sets WORLD_SIZE and RANK), if it did."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    gpu = torch.cuda.is_available()
    device = torch.device("cuda", local) if gpu else torch.device("cpu")
    if "WORLD_SIZE" not in os.environ:
        yield Worker(device=device)
        return
    if gpu:
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if gpu else "gloo")
    try:
        yield Worker(distributed.get_rank(), distributed.get_world_size(), device)
    finally:
        distributed.destroy_process_group()
