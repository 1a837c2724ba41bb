"""Makes and times everything and writes docs/bench.json, its page, its picture and the README's table: ``make bench``.

Each artifact of ours is timed in turn with the converter's own, one thread; the whole comparison is repeated. What has
been measured is in runs/bench and is not measured again. ``--write`` only writes the pages anew; networks and recipes
may be named, ``cold`` for the cold start, and ``packages`` for counting Core ML packages.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from lvexport import files, machine
from lvexport.timing import times
from lvexport.validation.runtimes.registry import RUNTIMES
from tools.bench import cold, packages, page, roofs

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


def ours(name: str, imgsz: int, recipe: str) -> dict[str, Any]:
    """The manifest of our artifacts, in ``WORK``."""
    import lvexport

    bundle = lvexport.export(
        name, TARGETS, recipe, weights="random", imgsz=imgsz, samples=4, output=WORK / "dist", report=say
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


def both_packages(name: str, recipe: str) -> tuple[Path, Path]:
    """The minimal script's Core ML package and ours. Raises RuntimeError where the script fails."""
    import lvexport

    imgsz = NETWORKS.get(name, 224)
    made = lvexport.export(
        name, "coreml", recipe, weights="random", imgsz=imgsz, samples=1, output=WORK / "dist", report=say
    )
    minimal = theirs(name, imgsz, "coreml", recipe, ".mlpackage")
    if minimal is None:
        raise RuntimeError(f"the minimal script fails for {name} in {recipe}")
    return minimal, made.path / str(made.results[0].path)


def say(what: str, state: str) -> None:
    print(f"  {what}: {state}", file=sys.stderr, flush=True)


def compare(target: str, minimal: Path, own: Path) -> dict[str, Any]:
    """Our time over theirs, the median of each repetition's medians; milliseconds of the fastest run of either.

    Where ours is theirs, byte for byte, the ratio is one: two processes that run the same file differ by noise alone.
    """
    same = files.digest(minimal) == files.digest(own)
    artifacts = [(target, own)] if same else [(target, minimal), (target, own)]
    repeated = [times(artifacts, 1, ROUNDS, RUNS) for _ in range(REPETITIONS)]
    runs = [[[t for turn in turns for t in turn[i]] for turns in repeated] for i in (0, -1)]
    ratios = [statistics.median(ours) / statistics.median(theirs) for theirs, ours in zip(*runs, strict=True)]
    return {
        "minimal_ms": min(map(min, runs[0])),
        "ours_ms": min(map(min, runs[1])),
        "ratio": statistics.median(ratios),
        "spread": [min(ratios), max(ratios)],
        "same": same,
    } | {name: weigh(target, path) for name, path in (("minimal", minimal), ("ours", own))}


def weigh(target: str, artifact: Path) -> dict[str, int]:
    """What does not depend on the processor: bytes, and operators as ``lvexport info`` counts them."""
    return {"bytes": files.size(artifact), "operators": sum(RUNTIMES[target].describe(artifact).operators.values())}


def row(name: str, imgsz: int, recipe: str) -> dict[str, Any]:
    """All comparisons of one network in one recipe."""
    manifest = ours(name, imgsz, recipe)
    cells = {}
    for artifact in manifest["artifacts"]:
        target = artifact["target"]
        if artifact["recipe"] != recipe or target not in TARGETS:  # made for another part of the benchmark
            continue
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


def measured(name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What is measured under a name, from an earlier run where there was one."""
    path = WORK / f"{name}.json"
    if not path.exists():
        path.write_text(json.dumps(measure()))
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def main() -> None:
    arguments = sys.argv[1:]
    if arguments != ["--write"]:
        WORK.mkdir(parents=True, exist_ok=True)
        for recipe, name in product(named(arguments, RECIPES), named(arguments, NETWORKS)):
            if arguments not in (["cold"], ["packages"]):
                measured(f"{name}-{recipe}", partial(row, name, NETWORKS[name], recipe))
        if "cold" in arguments or not arguments:
            measured("cold", partial(cold.measure, say))
        if "packages" in arguments or not arguments:
            measured("packages", partial(packages.measure, both_packages))
        KEPT.write_text(json.dumps(document(), indent=1) + "\n")
    page.write(json.loads(KEPT.read_text()), ROOT)


def named(arguments: list[str], known: Iterable[str]) -> list[str]:
    """Those that were named, or all where none was."""
    return [name for name in known if name in arguments] or list(known)


def document() -> dict[str, Any]:
    """All that has been measured so far; what was not, as the last run left it, for it has its own machine."""
    done = {path.stem: json.loads(path.read_text()) for path in WORK.glob("*.json")}
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    parts = {name: done.get(name, kept.get(name)) for name in ("cold", "packages")}
    networks = {name: joined(rows) for name in NETWORKS if (rows := of(done, name))}
    if not networks and kept:
        return kept | parts
    timed = {
        "machine": machine.describe(),
        "runtimes": {target: RUNTIMES[target].available().name for target in TARGETS},
        "roofs": measured("roofs", lambda: asdict(roofs.measure())),
        "networks": networks,
    }
    return timed | parts


def of(done: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """The rows of one network, a recipe each."""
    return [done[key] for recipe in RECIPES if (key := f"{name}-{recipe}") in done]


def joined(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One row with the cells of all, target by target."""
    cells = {key: cell for row in rows for key, cell in row["cells"].items()}
    return rows[0] | {"cells": {key: cells[key] for key in sorted(cells, key=lambda k: TARGETS.index(k.split()[0]))}}


if __name__ == "__main__":
    main()
