"""Trains one network with either sampler and writes docs/multi-scale.md: ``make multi-scale``.

The runs follow one another on one core, the order of the two samplers turned with each seed, so that what else the
machine does slows both. Interrupted runs go on where they were; finished ones are kept. Needs Debian's
``dataset-fashion-mnist``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from matplotlib import pyplot

MODEL = "mobilevit_xxs"
EPOCHS = 4
IMGSZ = 64
FIXED, MULTI = str(IMGSZ), "32,64,96"
# As many pixels in a batch either way: 24 pictures of 96 × 96.
BATCHES = {FIXED: 54, MULTI: 24}
SEEDS = (0, 1)
EVALUATED = (32, 64, 96, 128, 160)
RUNS = Path("runs/multi-scale")
DOCS = Path(__file__).parent.parent / "docs"


def folder(sizes: str, seed: int) -> Path:
    return RUNS / f"{sizes.replace(',', '-')}-seed{seed}"


def train(sizes: str, seed: int) -> None:
    typed = ["train", MODEL, "--data", "fashion-mnist", "--imgsz", str(IMGSZ), "--sizes", sizes, "--seed", str(seed)]
    typed += ["--batch", str(BATCHES[sizes]), "--epochs", str(EPOCHS), "--output", str(folder(sizes, seed))]
    line = [sys.executable, "-m", "lvexport", *typed]
    if subprocess.run(line, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode:
        sys.exit("A training failed; what it printed is above. Type the same again to go on.")


def measure(sizes: str, seed: int) -> dict[str, Any]:
    """Seconds an epoch and the accuracy on all test images at each size; measured once and kept beside the weights."""
    kept = folder(sizes, seed) / "accuracies.json"
    if not kept.exists():
        import lvexport
        from lvexport.models.registry import ENTRIES
        from lvexport.training import fashion_mnist
        from lvexport.training.evaluation import accuracy

        weights = folder(sizes, seed) / f"{MODEL}.safetensors"
        _, test = fashion_mnist.load(fashion_mnist.DEBIAN_FOLDER, ENTRIES[MODEL].preprocessing, seed=0)
        model = lvexport.build(MODEL, weights=weights)
        found = {str(size): accuracy(model, test, size) for size in EVALUATED}
        seconds = json.loads(weights.with_suffix(".json").read_text())["training_seconds"]
        kept.write_text(json.dumps({"seconds": seconds / EPOCHS, "accuracy": found}))
    result: dict[str, Any] = json.loads(kept.read_text())
    return result


def draw(results: dict[tuple[str, int], dict[str, Any]]) -> None:
    figure, axes = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
    for sizes, colour, name in ((FIXED, "tab:gray", "fixed"), (MULTI, "tab:blue", "multi-scale")):
        label = f"{name}, {sizes.replace(',', ' ')}"
        for seed in SEEDS:
            values = [100 * results[sizes, seed]["accuracy"][str(size)] for size in EVALUATED]
            axes.plot(EVALUATED, values, "o-", color=colour, label=label if seed == SEEDS[0] else None)
    axes.set_xticks(EVALUATED)
    axes.set_xlabel("pixels a side when measuring")
    axes.set_ylabel("accuracy, %")
    axes.legend()
    figure.savefig(DOCS / "multi-scale.svg", metadata={"Date": None})


def table(results: dict[tuple[str, int], dict[str, Any]]) -> str:
    head = ["sampler", "seed", "s/epoch", *(f"{size} px" for size in EVALUATED)]
    rows = [
        [name, str(seed), f"{results[sizes, seed]['seconds']:.0f}"]
        + [f"{100 * results[sizes, seed]['accuracy'][str(size)]:.2f}" for size in EVALUATED]
        for sizes, name in ((FIXED, "fixed"), (MULTI, "multi-scale"))
        for seed in SEEDS
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def conclusions(results: dict[tuple[str, int], dict[str, Any]]) -> str:
    """What the numbers say: differences of means over the seeds, with the difference between seeds beside them."""

    def mean(sizes: str, size: int) -> float:
        return 100 * sum(results[sizes, seed]["accuracy"][str(size)] for seed in SEEDS) / len(SEEDS)

    def apart(sizes: str, size: int) -> float:
        values = [100 * results[sizes, seed]["accuracy"][str(size)] for seed in SEEDS]
        return max(values) - min(values)

    lines = []
    for size in EVALUATED:
        gain, spread = mean(MULTI, size) - mean(FIXED, size), max(apart(MULTI, size), apart(FIXED, size))
        lines.append(f"- {size} px: multi-scale {gain:+.2f} points; seeds lie up to {spread:.2f} apart.")
    ratios = [results[MULTI, seed]["seconds"] / results[FIXED, seed]["seconds"] for seed in SEEDS]
    spent = " and ".join(f"{ratio:.2f}" for ratio in ratios)
    return "\n".join([*lines, f"- An epoch of the multi-scale sampler takes {spent} times as long as a fixed one."])


TEXT = """# The multi-scale sampler against the fixed one

MobileViT's authors train with a sampler that draws a resolution for each batch (arXiv 2110.02178, section 3.3) and
report that it is faster and that networks keep their accuracy over a range of resolutions. This is {model} on all
60,000 training images of Fashion-MNIST, {epochs} epochs, {seeds} seeds, measured on all 10,000 test images. The fixed
sampler draws {fixed} × {fixed} pixels; the multi-scale one {multi}, with as many pixels in a batch. Everything else is
the same; either run ends by taking the statistics of batch normalisation anew at {imgsz} × {imgsz}. The runs followed
one another on one core, the order of the two turned with the seed. `make multi-scale` makes this page.

{table}

![Accuracy over resolution](multi-scale.svg)

{conclusions}

Fashion-MNIST's images have 28 × 28 pixels, so a larger size shows the network nothing more. The paper's images do.
"""


def main() -> None:
    for seed in SEEDS:
        for sizes in (FIXED, MULTI) if seed % 2 == 0 else (MULTI, FIXED):
            train(sizes, seed)
    results = {(sizes, seed): measure(sizes, seed) for sizes in (FIXED, MULTI) for seed in SEEDS}
    draw(results)
    text = TEXT.format(
        model=MODEL,
        epochs=EPOCHS,
        seeds=len(SEEDS),
        fixed=FIXED,
        multi=" and ".join(MULTI.replace(",", ", ").rsplit(", ", 1)),
        imgsz=IMGSZ,
        table=table(results),
        conclusions=conclusions(results),
    )
    (DOCS / "multi-scale.md").write_text(text)


if __name__ == "__main__":
    main()
