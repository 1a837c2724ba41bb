"""Makes and times everything and writes docs/bench.json and docs/bench.md: ``make bench``.

Each artifact of ours is timed in turn with the converter's own, one thread; the whole comparison is repeated. What has
been measured is in runs/bench and is not measured again. ``--write`` only writes the pages anew; networks may be named.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from lvexport import machine
from lvexport.timing import times
from tools.bench import page, roofs

# One network of each family or more, at the size that its authors give figures for.
NETWORKS = {
    "mobilevit_xxs": 256,
    "mobilevit_s": 256,
    "mobilevitv2_100": 256,
    "mobile_former_96m": 224,
    "efficientformer_l1": 224,
    "efficientformerv2_s0": 224,
}
TARGETS = ("executorch", "tflite", "onnx")
RECIPES = ("fp32", "fp16")
REPETITIONS, ROUNDS, RUNS = 3, 5, 5  # of the whole comparison, of turns in it, of inferences in a turn
ROOT = Path(__file__).parent.parent.parent
WORK = ROOT / "runs" / "bench"
KEPT = ROOT / "docs" / "bench.json"


def ours(name: str, imgsz: int) -> dict[str, Any]:
    """The manifest of our artifacts, in ``WORK``."""
    import lvexport

    bundle = lvexport.export(
        name, TARGETS, RECIPES, weights="random", imgsz=imgsz, samples=4, output=WORK / "dist", report=say
    )
    return json.loads(bundle.manifest.model_dump_json()) | {"folder": str(bundle.path)}


def theirs(name: str, imgsz: int, target: str, recipe: str, suffix: str) -> Path | None:
    """The artifact of the converter's own minimal script; None where that fails."""
    out = WORK / f"{name}-{imgsz}-{recipe}.{target}{suffix}"
    if not out.exists():
        say(f"{name} {target} {recipe}", "minimal script")
        line = [sys.executable, "-m", "tools.bench.minimal", target, recipe, name, str(imgsz), str(out)]
        if subprocess.run(line, cwd=ROOT, capture_output=True).returncode:
            out.unlink(missing_ok=True)
            return None
    return out


def say(what: str, state: str) -> None:
    print(f"  {what}: {state}", file=sys.stderr, flush=True)


def compare(target: str, minimal: Path, own: Path) -> dict[str, Any]:
    """Milliseconds of both, and our time over theirs: the median of each repetition's median."""
    turns = [times([(target, minimal), (target, own)], 1, ROUNDS, RUNS) for _ in range(REPETITIONS)]
    medians = [[statistics.median(t for turn in turn_set for t in turn[i]) for i in range(2)] for turn_set in turns]
    ratios = [mine / base for base, mine in medians]
    return {
        "minimal_ms": statistics.median(base for base, _ in medians),
        "ours_ms": statistics.median(mine for _, mine in medians),
        "ratio": statistics.median(ratios),
        "spread": [min(ratios), max(ratios)],
    }


def row(name: str, imgsz: int) -> dict[str, Any]:
    """All comparisons of one network."""
    manifest = ours(name, imgsz)
    cells = {}
    for artifact in manifest["artifacts"]:
        target, recipe = artifact["target"], artifact["recipe"]
        if artifact["status"] == "error":
            cells[f"{target} {recipe}"] = {"error": artifact["error"]}
            continue
        own = Path(manifest["folder"]) / artifact["path"]
        minimal = theirs(name, imgsz, target, recipe, own.suffix)
        say(f"{name} {target} {recipe}", "timing")
        measured = {"error": "the minimal script fails"} if minimal is None else compare(target, minimal, own)
        cells[f"{target} {recipe}"] = measured | {
            "rewrites": artifact["rewrites"],
            "delegation": artifact["delegation"],
        }
    model = manifest["model"]
    return {"imgsz": imgsz, "macs": model["macs"], "traffic_bytes": model["traffic_bytes"], "cells": cells}


def measured(name: str, imgsz: int) -> dict[str, Any]:
    """One network's row, from an earlier run where there was one."""
    path = WORK / f"{name}.json"
    if not path.exists():
        path.write_text(json.dumps(row(name, imgsz)))
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def main() -> None:
    arguments = sys.argv[1:]
    if arguments != ["--write"]:
        WORK.mkdir(parents=True, exist_ok=True)
        found = roofs.measure()
        rows = {name: measured(name, imgsz) for name, imgsz in NETWORKS.items() if name in arguments or not arguments}
        document = {
            "machine": machine.describe(),
            "roofs": {"gflops": found.gflops, "bandwidth": found.bandwidth},
            "networks": rows,
        }
        KEPT.write_text(json.dumps(document, indent=1) + "\n")
    page.write(json.loads(KEPT.read_text()), ROOT / "docs")


if __name__ == "__main__":
    main()
