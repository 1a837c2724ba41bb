"""``lvexport train``: from a request to a checkpoint with its card, whatever happened in between."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors.torch import load_file, save
from torch import Tensor, nn

from lvexport.models.build import fresh
from lvexport.models.preprocessing import Preprocessing
from lvexport.models.registry import Entry
from lvexport.models.weights import read
from lvexport.training import card, snapshot
from lvexport.training.data import Data, open_data
from lvexport.training.errors import TrainingError
from lvexport.training.evaluation import accuracy
from lvexport.training.loop import SAVE_SECONDS, Hooks, Step, Trainer
from lvexport.training.schedule import Schedule
from lvexport.training.workers import Worker, join

HEAD = "classifier."
SNAPSHOT = "training.pt"  # while the training goes on


@dataclass(frozen=True)
class Request:
    """What to train. ``half``: write the weights in half precision. ``processes``: that read pictures, a worker.

    ``start``: a checkpoint of the same network to begin with, whatever its classes; by default random weights.
    ``freeze``: the stem and that many stages keep the weights they begin with.
    """

    entry: Entry
    data: str
    schedule: Schedule
    output: Path
    half: bool = False
    force: bool = False
    processes: int = 0
    save_seconds: float = SAVE_SECONDS
    start: Path | None = None
    freeze: int = 0

    @property
    def stem(self) -> Path:
        return self.output / self.entry.name

    def identity(self, workers: int) -> dict[str, Any]:
        """What a run that is to go on must have been asked for as well, in types that come back from disk the same."""
        schedule = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self.schedule).items()}
        return {"model": self.entry.name, "data": self.data, "workers": workers, **schedule, **self.begun()}

    def begun(self) -> dict[str, Any]:
        """What the training began with: the digest of the checkpoint, empty for none, and how much of it is kept."""
        start = hashlib.sha256(self.start.read_bytes()).hexdigest() if self.start else ""
        return {"start": start, "freeze": self.freeze}


@dataclass(frozen=True)
class Outcome:
    """What a training left. ``resumed``: samples that earlier runs had seen; ``kept``: nothing was left to do."""

    weights: Path
    card: dict[str, Any]
    resumed: int = 0
    kept: bool = False


def train(
    request: Request,
    report: Callable[[Step], None] = lambda step: None,
    resuming: Callable[[int], None] = lambda samples: None,
) -> Outcome | None:
    """Train, and write ``<model>.safetensors``, its card (.json, .md) and the curve (.svg) into ``request.output``.

    A run that was killed goes on where its last snapshot was taken, and ends with the same numbers. One that is done
    is not done again. Under ``torchrun`` every worker calls this; the first one writes, and the others return None.

    Raises TrainingError for a request that cannot be met.
    """
    check_sizes(request)
    data = open_data(request.data, request.entry.preprocessing, request.schedule.seed)
    with join() as worker:
        if not worker.leads:
            follow(request, data, worker)
            return None
        request.output.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(request.output / ".lock", timeout=0):
                return lead(request, data, worker, report, resuming)
        except Timeout as error:
            raise TrainingError(
                f"Another training is writing into {request.output}. Wait for it, or take another --output."
            ) from error
        finally:
            (request.output / ".lock").unlink(missing_ok=True)


def check_sizes(request: Request) -> None:
    """Raise before anything is loaded where the network does not take one of the sizes."""
    for size in {request.schedule.imgsz, *request.schedule.sizes}:
        request.entry.check_size(size)


def prepare(request: Request, data: Data, worker: Worker) -> tuple[Trainer, int]:
    """A trainer, gone to where the last run was killed, and how many samples that had seen."""
    identity = request.identity(worker.workers)
    model = fresh(request.entry.name, len(data.classes), request.schedule.seed)
    if request.start is not None:
        begin(model, request.start, request.freeze)
    trainer = Trainer(model, data, request.schedule, identity, worker, request.processes)
    found = snapshot.load(request.output / SNAPSHOT, identity)
    if found is not None:
        trainer.restore(found)
    return trainer, trainer.position.samples


def begin(model: nn.Module, path: Path, freeze: int) -> None:
    """Load all of a checkpoint but its classifier, which may be of other classes, into ``model``.

    The stem and the first ``freeze`` stages are not trained any further.

    Raises TrainingError, with the model untouched, where anything else differs or there are no such stages.
    """
    parts = dict(model.named_children())
    stages = list(parts["stages"].children()) if "stages" in parts else []
    if freeze > len(stages):
        raise TrainingError(f"This network has {len(stages)} stages that can be frozen, not {freeze}.")
    wanted = {name: value.shape for name, value in model.state_dict().items() if not name.startswith(HEAD)}
    state = {name: value for name, value in read(path).items() if not name.startswith(HEAD)}
    if {name: value.shape for name, value in state.items()} != wanted:
        raise TrainingError(
            f"{path} does not fit this network, also without its classifier. Give --start a checkpoint that lvexport "
            "train wrote for the same network."
        )
    model.load_state_dict(state, strict=False)
    if freeze:
        for kept in (parts["stem"], *stages[:freeze]):
            kept.requires_grad_(False)


def follow(request: Request, data: Data, worker: Worker) -> None:
    """The part of every worker but the first."""
    if worker.total(0.0) != [0.0]:  # the first one looks at what is there, and says that nothing is to be done
        return
    trainer, _ = prepare(request, data, worker)
    average = trainer.run(Hooks())
    accuracy(average, data.val, request.schedule.imgsz, worker, processes=request.processes)


def lead(
    request: Request,
    data: Data,
    worker: Worker,
    report: Callable[[Step], None],
    resuming: Callable[[int], None],
) -> Outcome | None:
    """The part of the first worker, or of the only one."""
    path = request.output / SNAPSHOT
    if request.force:
        path.unlink(missing_ok=True)
    done = None if path.exists() or request.force else finished(request)
    if worker.total(float(done is not None)) != [0.0]:
        return done
    trainer, resumed = prepare(request, data, worker)
    if resumed:
        resuming(resumed)
    hooks = Hooks(report, lambda taken: snapshot.save(taken, path), request.save_seconds)
    average = trainer.run(hooks)
    weights = request.stem.with_suffix(".safetensors")
    written = write_weights(average.module, weights, request, data.preprocessing, data.classes)
    average.module.load_state_dict(written)
    measured = accuracy(average.module, data.val, request.schedule.imgsz, worker, processes=request.processes)
    parameters = sum(p.numel() for p in average.module.parameters())
    found = card.describe(
        request.entry.name, parameters, data, request.schedule, trainer.position, measured, worker.workers
    ) | (request.begun() if request.start else {})
    card.draw_curve(trainer.position.curve, request.stem.with_suffix(".svg"))
    card.write(found, request.stem)
    path.unlink()
    return Outcome(weights, found, resumed)


def finished(request: Request) -> Outcome | None:
    """What an earlier run of the same request left when it ended, if there was one."""
    weights, described = request.stem.with_suffix(".safetensors"), request.stem.with_suffix(".json")
    if not (weights.exists() and described.exists()):
        return None
    found = json.loads(described.read_text())
    asked = {"dataset": request.data, "schedule": json.loads(json.dumps(asdict(request.schedule)))}
    if request.start:
        asked |= request.begun()
    if any(found.get(name) != value for name, value in asked.items()):
        raise TrainingError(
            f"{request.output} holds {weights.name} from another training. Type --force to write over it, or another "
            "--output."
        )
    return Outcome(weights, found, kept=True)


def write_weights(
    model: nn.Module, path: Path, request: Request, preprocessing: Preprocessing, classes: tuple[str, ...]
) -> dict[str, Tensor]:
    """Write the state, beside its place and renamed into it, and return what was written as it is read back."""
    kind = torch.float16 if request.half else torch.float32
    state = {
        name: (value.to(kind) if value.is_floating_point() else value).cpu().contiguous()
        for name, value in model.state_dict().items()
    }
    metadata = {
        "model": request.entry.name,
        "classes": json.dumps(classes),
        "imgsz": str(request.schedule.imgsz),
        "preprocessing": json.dumps(asdict(preprocessing)),
    }
    beside = path.with_suffix(".part")
    beside.write_bytes(save(state, metadata=metadata))  # save_file makes a file that nobody else may read
    beside.replace(path)
    return load_file(path)
