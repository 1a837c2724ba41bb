"""Training that runs for seconds: it learns, repeats itself for a seed, and goes on after a kill as if nothing was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

import lvexport
from lvexport.models.preprocessing import Preprocessing
from lvexport.models.registry import ENTRIES
from lvexport.training.data import Data, in_order, loader, open_data
from lvexport.training.errors import TrainingError
from lvexport.training.evaluation import accuracy
from lvexport.training.loop import Hooks, Trainer, decayed
from lvexport.training.run import Request, train
from lvexport.training.schedule import Schedule, learning_rate
from lvexport.training.snapshot import Snapshot
from lvexport.training.statistics import refresh
from lvexport.training.workers import ALONE

SHORT = Schedule(epochs=2, imgsz=32, sizes=(32, 64), batch=4, ema_decay=0.9)
ENTRY = ENTRIES["mobilevit_xxs"]


def small() -> nn.Module:
    """A network that trains in a moment, with what makes resuming hard: dropout and batch statistics."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(128, 2),
    )


@pytest.fixture
def data(pictures: Path) -> Data:
    return open_data(str(pictures), Preprocessing(), seed=0)


def trainer(data: Data, schedule: Schedule = SHORT) -> Trainer:
    return Trainer(small(), data, schedule, {"model": "small"}, ALONE, processes=0)


def states_equal(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return all(torch.equal(a[key], b[key]) for key in a)


def test_learning_rate_rises_then_falls_to_nothing() -> None:
    rates = [learning_rate(SHORT, step / 100) for step in range(101)]
    assert rates[0] == 0
    assert max(rates) == pytest.approx(SHORT.lr)
    assert rates.index(max(rates)) == 5
    assert rates[-1] == pytest.approx(0, abs=1e-9)


def test_a_short_training_learns_and_repeats_itself(data: Data) -> None:
    schedule = replace(SHORT, epochs=12, lr=1e-2)
    first, second = (trainer(data, schedule).run(Hooks()) for _ in range(2))
    assert accuracy(first, data.val, 32) > 0.9
    assert states_equal(first, second)


def test_a_run_resumed_anywhere_ends_with_the_same_numbers(data: Data, tmp_path: Path) -> None:
    from lvexport.training import snapshot

    taken: list[Path] = []

    def keep(state: Snapshot) -> None:
        taken.append(tmp_path / f"{len(taken)}.pt")
        snapshot.save(state, taken[-1])

    whole = trainer(data)
    whole.run(Hooks(save=keep, save_seconds=0))
    assert len(taken) >= 2
    for path in taken:
        resumed = trainer(data)
        found = snapshot.load(path, {"model": "small"})
        assert found is not None
        resumed.restore(found)
        assert resumed.position.samples > 0
        resumed.run(Hooks())
        assert states_equal(whole.average, resumed.average)
        assert [p.loss for p in whole.position.curve] == [p.loss for p in resumed.position.curve]


def test_decay_spares_biases_and_norms() -> None:
    matrices, rest = decayed(small(), 0.1)
    assert {p.ndim for p in matrices["params"]} == {2, 4}
    assert {p.ndim for p in rest["params"]} == {1}
    assert rest["weight_decay"] == 0


def test_mixed_precision_trains(data: Data) -> None:
    made = trainer(data, replace(SHORT, epochs=12, lr=1e-2))
    made.mixed = True  # half precision runs on this processor too, if slowly
    assert accuracy(made.run(Hooks()), data.val, 32) > 0.9


def test_a_training_leaves_what_the_exporter_takes(pictures: Path, tmp_path: Path) -> None:
    request = Request(ENTRY, str(pictures), SHORT, tmp_path / "out", half=True)
    outcome = train(request)
    assert outcome is not None
    names = {"mobilevit_xxs.safetensors", "mobilevit_xxs.json", "mobilevit_xxs.md", "mobilevit_xxs.svg"}
    assert {path.name for path in request.output.iterdir()} == names
    with safe_open(outcome.weights, framework="pt") as file:
        assert json.loads(file.metadata()["classes"]) == ["level", "upright"]
        assert file.get_tensor("classifier.weight").dtype == torch.float16
    model = lvexport.build("mobilevit_xxs", weights=outcome.weights, num_classes=2, imgsz=32)
    found = open_data(str(pictures), ENTRY.preprocessing, 0)
    assert accuracy(model, found.val, 32) == outcome.card["test_accuracy"]
    assert f"{outcome.card['test_accuracy']:.2%}" in (request.output / "mobilevit_xxs.md").read_text()
    before = outcome.weights.stat().st_mtime_ns
    again = train(request)
    assert again is not None
    assert again.kept
    assert outcome.weights.stat().st_mtime_ns == before


def test_another_request_does_not_write_over_a_training(pictures: Path, tmp_path: Path) -> None:
    request = Request(ENTRY, str(pictures), replace(SHORT, epochs=1), tmp_path)
    train(request)
    with pytest.raises(TrainingError, match="--force"):
        train(replace(request, schedule=SHORT))
    outcome = train(replace(request, schedule=SHORT, force=True))
    assert outcome is not None
    assert outcome.card["schedule"]["epochs"] == 2


def command(pictures: Path, output: Path, *more: str) -> list[str]:
    typed = ["train", "mobilevit_xxs", "--data", str(pictures), "--imgsz", "32", "--sizes", "32,64", "--batch", "4"]
    return [sys.executable, "-m", "lvexport", *typed, "--epochs", "3", "--output", str(output), *more]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def test_a_killed_run_goes_on_and_ends_with_the_same_numbers(pictures: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(pictures, whole), check=True, env=environment(), capture_output=True)
    line = command(pictures, killed, "--save-every", "0.001")
    process = subprocess.Popen(line, env=environment(), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (killed / "training.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (killed / "mobilevit_xxs.safetensors").exists()
    done = subprocess.run(line, check=True, env=environment(), capture_output=True, text=True)
    assert "going on after" in done.stderr
    first, second = (load_file(folder / "mobilevit_xxs.safetensors") for folder in (whole, killed))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_two_workers_train_one_network(pictures: Path, tmp_path: Path) -> None:
    line = command(pictures, tmp_path / "two", "--json")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*torchrun, *line[1:]], env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    card = json.loads(done.stdout)
    assert card["machine"].split(", ")[1].startswith("2 workers")
    assert (tmp_path / "two" / "mobilevit_xxs.safetensors").exists()


GRADIENTS = """
import sys, torch
from torch import nn
from lvexport.models.preprocessing import Preprocessing
from lvexport.training.data import open_data
from lvexport.training.loop import Trainer
from lvexport.training.sampler import Pick
from lvexport.training.schedule import Schedule
from lvexport.training.workers import join

with join() as worker:
    data = open_data(sys.argv[1], Preprocessing(), seed=0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 2))
    schedule = Schedule(epochs=1, imgsz=32, sizes=(32, 64), batch=3)
    trainer = Trainer(model, data, schedule, {}, worker, 0)
    parallel = worker.wrap(trainer.model)
    trainer.sampler.set_epoch(0)
    for number, picks in enumerate(trainer.sampler):
        x, y = data.train.__getitems__(picks)
        loss = nn.functional.cross_entropy(parallel(x), y, reduction="mean") * trainer.sampler.share(number)
        loss.backward()
    if worker.leads:
        plan = trainer.sampler
        alone = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 2))
        alone.load_state_dict(model.state_dict())
        for iteration in plan.iterations:
            total = sum(iteration.counts)
            start = iteration.start
            for size, count in zip(iteration.sizes, iteration.counts):
                picks = [Pick(int(i), size, 0) for i in plan.order[start : start + count]]
                x, y = data.train.__getitems__(picks)
                (nn.functional.cross_entropy(alone(x), y, reduction="sum") / total).backward()
                start += count
        for p, q in zip(model.parameters(), alone.parameters()):
            assert torch.allclose(p.grad, q.grad, atol=1e-5), (p.grad - q.grad).abs().max()
        print("alike")
"""


def test_workers_with_batches_of_different_size_weigh_every_sample_alike(pictures: Path, tmp_path: Path) -> None:
    script = tmp_path / "gradients.py"
    script.write_text(GRADIENTS)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, str(script), str(pictures)], env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "alike" in done.stdout


def test_statistics_are_those_of_the_size_asked_for(data: Data) -> None:
    made = trainer(data, replace(SHORT, sizes=(32, 96))).run(Hooks())
    model = made.module
    refresh(model, data.train, 32, 0, ALONE, processes=0)
    assert isinstance(model[1], nn.BatchNorm2d)
    seen: list[torch.Tensor] = []
    model[0].register_forward_hook(lambda _, __, y: seen.append(y))
    for x, _ in loader(data.train, list(in_order(range(len(data.train)), 32, 128))):
        model(x)
    assert torch.allclose(model[1].running_mean, torch.cat(seen).mean(dim=(0, 2, 3)), atol=1e-4)
    assert not model.training
