"""Supervised training of a classifier on images held in memory."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lvexport.training.data import Images, dye, jitter, resize


@dataclass(frozen=True)
class Schedule:
    """What a run is determined by, together with the network and the data."""

    epochs: int = 12
    imgsz: int = 64  # pixels a side that the images are resized to
    batch: int = 128
    peak_lr: float = 2e-3
    weight_decay: float = 0.01  # as MobileViT's authors set it (paper, section 4.1)
    warmup: float = 0.05  # share of the steps over which the rate rises from 0
    label_smoothing: float = 0.1  # paper, section 4.1
    ema_decay: float = 0.998
    seed: int = 0


def learning_rate(schedule: Schedule, progress: float) -> float:
    """Linear warm-up, then half a cosine down to 0. ``progress`` runs from 0 to 1 over the training."""
    if progress < schedule.warmup:
        return schedule.peak_lr * progress / schedule.warmup
    phase = (progress - schedule.warmup) / (1 - schedule.warmup)
    return schedule.peak_lr * 0.5 * (1 + math.cos(math.pi * phase))


def batches(images: Images, schedule: Schedule, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of augmented (N, 3, imgsz, imgsz) images and their labels."""
    pixels, labels = torch.from_numpy(images.pixels.copy()), torch.from_numpy(images.labels)
    for chosen in torch.split(torch.randperm(len(labels), generator=generator), schedule.batch):
        grey = jitter(pixels[chosen].float() / 255, generator)
        yield resize(dye(grey, generator), schedule.imgsz), labels[chosen]


def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the exponential moving average one step towards the model; whole numbers are copied."""
    current = model.state_dict()
    for name, value in average.state_dict().items():
        if value.is_floating_point():
            value.lerp_(current[name], 1 - decay)
        else:
            value.copy_(current[name])


def train(model: nn.Module, images: Images, schedule: Schedule, report: Callable[[str], None]) -> nn.Module:
    """Train ``model`` in place; return the moving average of its weights, in evaluation mode."""
    generator = torch.Generator().manual_seed(schedule.seed)
    model.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=schedule.weight_decay)
    steps = schedule.epochs * math.ceil(len(images.labels) / schedule.batch)
    step, start = 0, time.monotonic()
    for epoch in range(1, schedule.epochs + 1):
        for x, y in batches(images, schedule, generator):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(schedule, step / steps)
            logits = model(x.contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(logits, y, label_smoothing=schedule.label_smoothing)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            update_average(average, model, min(schedule.ema_decay, (1 + step) / (10 + step)))
            step += 1
            if step % 100 == 0:
                report(f"epoch {epoch}  step {step}/{steps}  loss {loss.item():.3f}  {time.monotonic() - start:.0f} s")
    return average.eval()


@torch.no_grad()
def accuracy(model: nn.Module, images: Images, schedule: Schedule) -> float:
    """Share of all images classified right, dyed by the schedule's seed and without other augmentation."""
    generator = torch.Generator().manual_seed(schedule.seed)
    right = 0
    for start in range(0, len(images.labels), schedule.batch):
        chosen = slice(start, start + schedule.batch)
        grey = torch.from_numpy(images.pixels[chosen].copy()).float() / 255
        predicted = model(resize(dye(grey, generator), schedule.imgsz)).argmax(1)
        right += int((predicted == torch.from_numpy(images.labels[chosen])).sum())
    return right / len(images.labels)
