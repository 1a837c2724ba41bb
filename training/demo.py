"""Trains the demo checkpoint that ships with the project: ``python -m lvexport.training.demo OUT.safetensors``.

Writes the weights in half precision and, beside them, a card (JSON) with everything the run was made of and
the accuracy of exactly the numbers that were written, measured on all 10,000 test images.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lvexport.models import mobilevit
from lvexport.training import data
from lvexport.training.loop import Schedule, accuracy, train

MODEL = "mobilevit_xxs"


def save_half(model: nn.Module, path: Path) -> None:
    """Write the state in half precision; whole numbers (batch counters) stay as they are."""
    state = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in model.state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path, metadata={"model": MODEL, "classes": json.dumps(data.CLASSES)})


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, default=data.DEBIAN_FOLDER)
    parser.add_argument("--epochs", type=int, default=Schedule.epochs)
    parser.add_argument("--seed", type=int, default=Schedule.seed)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = parse(sys.argv[1:] if arguments is None else arguments)
    schedule = Schedule(epochs=options.epochs, seed=options.seed)
    images, test = (data.fashion_mnist(split, options.data) for split in ("train", "t10k"))
    torch.manual_seed(schedule.seed)
    start = time.monotonic()
    model = train(
        mobilevit.build(MODEL, len(data.CLASSES)),
        images,
        schedule,
        lambda line: print(line, file=sys.stderr, flush=True),
    )
    seconds = time.monotonic() - start
    save_half(model, options.out)
    written = mobilevit.build(MODEL, len(data.CLASSES))
    written.load_state_dict(load_file(options.out))
    card = {
        "model": MODEL,
        "parameters": sum(p.numel() for p in written.parameters()),
        "dataset": "Fashion-MNIST, 60,000 training images",
        "classes": data.CLASSES,
        "dye": data.DYE,
        "schedule": asdict(schedule),
        "test_images": len(test.labels),
        "test_accuracy": accuracy(written.eval(), test, schedule),
        "training_seconds": round(seconds),
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
    }
    options.out.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n")
    print(json.dumps(card, indent=2))


if __name__ == "__main__":
    main()
