"""Supervised training of a classifier: AdamW, cosine rate, label smoothing, moving average, exact resumption."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from lvexport.training.averaging import average
from lvexport.training.data import Data, loader
from lvexport.training.evaluation import accuracy
from lvexport.training.sampler import MultiScaleBatchSampler
from lvexport.training.schedule import Schedule, learning_rate
from lvexport.training.snapshot import Point, Position, Snapshot
from lvexport.training.statistics import refresh
from lvexport.training.workers import Worker

CURVE_SAMPLES = 2000  # pictures, at most, that accuracy is measured on after an epoch; in the end it is all of them
SAVE_SECONDS = 60.0
SMOOTHED = 20  # steps that a point of the loss curve is the mean of


@dataclass(frozen=True)
class Step:
    """What is told after each step."""

    epoch: int  # from 1
    samples: int  # seen in all
    of: int  # to be seen in all
    loss: float


@dataclass(frozen=True)
class Hooks:
    """What the surroundings do meanwhile: show a step, keep a snapshot."""

    report: Callable[[Step], None] = lambda step: None
    save: Callable[[Snapshot], None] = lambda snapshot: None
    save_seconds: float = SAVE_SECONDS


class Trainer:
    """One training. All that changes in it is in ``position``, ``model``, ``average``, ``optimizer`` and ``scaler``."""

    def __init__(
        self, model: nn.Module, data: Data, schedule: Schedule, request: dict[str, Any], worker: Worker, processes: int
    ) -> None:
        self.data, self.schedule, self.request, self.worker, self.processes = data, schedule, request, worker, processes
        self.model = model.train().to(worker.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = average(self.model, schedule.ema_decay)
        self.optimizer = torch.optim.AdamW(decayed(self.model, schedule.weight_decay), lr=0.0, fused=True)
        self.mixed = worker.device.type == "cuda"
        self.scaler = torch.amp.GradScaler(worker.device.type, enabled=self.mixed)
        self.sampler = MultiScaleBatchSampler(
            len(data.train),
            schedule.sizes,
            schedule.batch,
            seed=schedule.seed,
            rank=worker.rank,
            workers=worker.workers,
        )
        self.position = Position()

    def restore(self, snapshot: Snapshot) -> None:
        """Go to where a snapshot was taken."""
        self.position = snapshot.position
        self.model.load_state_dict(snapshot.model)
        self.average.load_state_dict(snapshot.average)
        self.optimizer.load_state_dict(snapshot.optimizer)
        self.scaler.load_state_dict(snapshot.scaler)

    def snapshot(self) -> Snapshot:
        return Snapshot(
            self.request,
            self.position,
            self.model.state_dict(),
            self.average.state_dict(),
            self.optimizer.state_dict(),
            self.scaler.state_dict(),
        )

    def run(self, hooks: Hooks) -> AveragedModel:
        """Train to the end and return the average of the weights, in evaluation mode, its statistics taken anew."""
        before, start = self.position.seconds, time.monotonic()
        saved, parallel = start, self.worker.wrap(self.model)
        losses: list[Tensor] = []
        while self.position.epoch < self.schedule.epochs:
            self.sampler.set_epoch(self.position.epoch, self.position.iteration)
            for x, y in loader(self.data.train, self.sampler, self.processes):
                losses.append(self.step(parallel, x, y))
                if len(losses) == SMOOTHED or self.position.iteration == len(self.sampler.iterations):
                    self.mark(losses, hooks)
                self.position.seconds = before + time.monotonic() - start
                if not losses and time.monotonic() - saved > hooks.save_seconds:
                    hooks.save(self.snapshot())
                    saved = time.monotonic()
            self.end_epoch()
            self.position.seconds = before + time.monotonic() - start
            hooks.save(self.snapshot())
            saved = time.monotonic()
        imgsz, after = self.schedule.imgsz, self.schedule.epochs
        refresh(self.average.module, self.data.train, imgsz, after, self.worker, self.processes)
        return self.average

    def step(self, parallel: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """One batch forward and back, the weights moved; its mean loss."""
        position, schedule, device = self.position, self.schedule, self.worker.device
        # Dropout draws from here, and a run that resumes draws the same.
        torch.manual_seed(step_seed(schedule.seed, position.epoch, position.iteration, self.worker.rank))
        rate = learning_rate(schedule, position.samples / (schedule.epochs * len(self.data.train)))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if len(x) == 1:  # batch normalisation needs two values a channel, and a small map may have one a picture
            x, y = x.repeat(2, 1, 1, 1), y.repeat(2)
        x, y = x.to(device, memory_format=torch.channels_last), y.to(device)
        with torch.autocast(device.type, dtype=torch.float16, enabled=self.mixed):
            loss = F.cross_entropy(parallel(x), y, label_smoothing=schedule.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        share = self.sampler.share(position.iteration)
        self.scaler.scale(loss * share).backward()  # type: ignore[no-untyped-call]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.average.update_parameters(self.model)
        position.samples += sum(self.sampler.iterations[position.iteration].counts)
        position.iteration += 1
        return loss.detach()

    def mark(self, losses: list[Tensor], hooks: Hooks) -> None:
        """Put the mean of the losses onto the curve, and report it."""
        position = self.position
        loss = float(torch.stack(losses).mean())
        losses.clear()
        position.curve.append(Point(position.samples, loss))
        hooks.report(Step(position.epoch + 1, position.samples, self.schedule.epochs * len(self.data.train), loss))

    def end_epoch(self) -> None:
        """Measure the average and go to the next epoch."""
        found = accuracy(self.average, self.data.val, self.schedule.imgsz, self.worker, CURVE_SAMPLES, self.processes)
        self.position.curve[-1].accuracy = found
        self.position.epoch, self.position.iteration = self.position.epoch + 1, 0


def decayed(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters in two groups. Matrices and filters are decayed; biases, norms and scales are not."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def step_seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint32)[0])
