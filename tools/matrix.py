"""Builds every registry network for every target and puts the verdicts into the README: ``make matrix``.

Each network at its own size, 1,000 classes, random weights. Takes hours; an interrupted run goes on with the networks
that are not in runs/matrix yet. With ``--write`` nothing is built: the README is written from docs/matrix.json.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from lvexport.models.registry import ENTRIES

# Core AI's runtime for Linux takes minutes an image over larger networks in half precision, and ExecuTorch's Core ML
# delegate runs a package that the Core ML column has: both are left to the test suite.
TARGETS = ("coreml", "tflite", "executorch", "onnx")
RECIPES = ("fp32", "fp16")
SAMPLES = 32  # pictures a verdict; random weights know no classes, so that more would only narrow the decibels
ROOT = Path(__file__).parent.parent
RUNS = ROOT / "runs" / "matrix"
KEPT = ROOT / "docs" / "matrix.json"
BETWEEN = re.compile(r"(<!-- matrix -->\n).*?(<!-- end of matrix -->)", re.DOTALL)


def build(name: str) -> dict[str, Any]:
    """One network's row, from its manifest."""
    import lvexport

    kept = RUNS / f"{name}.json"
    if not kept.exists():
        bundle = lvexport.export(
            name, to=TARGETS, quantize=RECIPES, weights="random", samples=SAMPLES, output=RUNS / "dist", report=report
        )
        kept.write_text(bundle.manifest.model_dump_json(indent=2))
        shutil.rmtree(bundle.path)
    return row(json.loads(kept.read_text()))


def report(what: str, state: str) -> None:
    print(f"  {what}: {state}", file=sys.stderr, flush=True)


def row(manifest: dict[str, Any]) -> dict[str, Any]:
    """What the table says of one network."""
    cells = {f"{a['target']} {a['recipe']}": cell(a) for a in manifest["artifacts"]}
    return {"imgsz": manifest["input"]["shape"][-1], "macs": manifest["model"]["macs"], "cells": cells}


def cell(artifact: dict[str, Any]) -> dict[str, Any]:
    verdict = artifact["verdict"]
    measured = {} if verdict is None else {"sqnr_db": round(verdict["sqnr_db"], 1), "samples": verdict["samples"]}
    return {"status": artifact["status"], **measured}


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Networks down, targets across; each cell the decibels at fp32 and fp16."""
    lines = ["| network | size | MMACs | " + " | ".join(TARGETS) + " |", "|---" * (3 + len(TARGETS)) + "|"]
    for name, found in rows.items():
        cells = [" / ".join(words(found["cells"][f"{target} {recipe}"]) for recipe in RECIPES) for target in TARGETS]
        lines.append(f"| `{name}` | {found['imgsz']} | {found['macs'] / 1e6:,.0f} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def words(found: dict[str, Any]) -> str:
    figure = f"{found['sqnr_db']:.0f}" if "sqnr_db" in found else ""
    return figure if found["status"] == "ok" else f"{figure} {found['status'].upper()}".strip()


def main() -> None:
    RUNS.mkdir(parents=True, exist_ok=True)
    if sys.argv[1:] != ["--write"]:
        rows = {}
        for name in ENTRIES:
            print(name, file=sys.stderr, flush=True)
            rows[name] = build(name)
        KEPT.write_text(json.dumps(rows, indent=1) + "\n")
    readme = ROOT / "README.md"
    written = table(json.loads(KEPT.read_text()))
    readme.write_text(BETWEEN.sub(lambda found: found[1] + written + found[2], readme.read_text()))


if __name__ == "__main__":
    main()
