"""What stands beside a trained checkpoint: the card, for programs and for people, and the training curve."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined

from lvexport.training.data import Data
from lvexport.training.schedule import Schedule
from lvexport.training.snapshot import Point, Position


def describe(
    model: str, parameters: int, data: Data, schedule: Schedule, position: Position, accuracy: float, workers: int
) -> dict[str, Any]:
    """The card: everything that the run was made of, and the accuracy of exactly the numbers that were written."""
    return {
        "model": model,
        "parameters": parameters,
        "dataset": data.name,
        "training_images": len(data.train),
        "classes": list(data.classes),
        "preprocessing": asdict(data.preprocessing),
        "schedule": {**asdict(schedule), "sizes": list(schedule.sizes)},
        "test_images": len(data.val),
        "test_accuracy": accuracy,
        "training_seconds": round(position.seconds),
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {workers} workers of {torch.get_num_threads()} threads",
    }


def write(card: dict[str, Any], stem: Path) -> None:
    """``stem.json`` for programs and ``stem.md`` for people."""
    stem.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n")
    templates = Environment(
        loader=PackageLoader("lvexport.training", "."), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    text = templates.get_template("card.md.jinja").render(**card, stem=stem.name)
    stem.with_suffix(".md").write_text(text + "\n")


def draw_curve(curve: list[Point], path: Path) -> None:
    """Loss over samples, and accuracy where it was measured, as an SVG picture."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "lvexport"  # the same curve gives the same file
    figure, loss = pyplot.subplots(figsize=(6, 3.2), layout="constrained")
    loss.plot([p.samples / 1e6 for p in curve], [p.loss for p in curve], color="tab:blue", linewidth=0.8)
    loss.set_xlabel("million samples seen")
    loss.set_ylabel("training loss", color="tab:blue")
    measured = [p for p in curve if p.accuracy is not None]
    accuracy = loss.twinx()
    accuracy.plot(
        [p.samples / 1e6 for p in measured], [100 * (p.accuracy or 0) for p in measured], "o-", color="tab:red"
    )
    accuracy.set_ylabel("accuracy of the average, %", color="tab:red")
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
