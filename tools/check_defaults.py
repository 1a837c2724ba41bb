"""Measures the default rewrites on the networks of the registry, smallest first: ``make check-defaults``, hours.

For each target the time with the default rewrites over that with none, and for ExecuTorch how many calls of the
delegate the program makes. What has been measured is in docs/defaults.json and is not measured again; the table in
docs/inference.md is written from there. Targets may be named.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from lvexport import machine
from lvexport.converters.rewrites.defaults import default
from lvexport.models.registry import ENTRIES
from lvexport.plan import cells
from lvexport.tuning import Names, Search
from tools.learn import DELEGATED, Here, compare, parts, search

TARGETS = ("executorch", "tflite", "onnx")
RECIPE = "fp32"
ROOT = Path(__file__).parent.parent
KEPT = ROOT / "docs" / "defaults.json"
PAGE = ROOT / "docs" / "inference.md"
BETWEEN = re.compile(r"(<!-- defaults -->\n).*?(<!-- end of defaults -->)", re.DOTALL)


def measured() -> dict[str, Any]:
    """Network → target → what was measured, and on which machine."""
    if not KEPT.exists():
        return {"machine": machine.describe(), "networks": {}}
    found: dict[str, Any] = json.loads(KEPT.read_text())
    return found


def measure(target: str) -> None:
    """Measure the networks that have not been, in this process, and keep each at once."""
    (cell,) = cells([target], [RECIPE], {})
    for entry in sorted(ENTRIES.values(), key=lambda e: e.parameters):
        names = default(target, RECIPE, entry.family)
        earlier = measured()["networks"].get(entry.name, {}).get(target)
        if earlier is not None and tuple(earlier["rewrites"]) == names:
            continue
        with tempfile.TemporaryDirectory(prefix="lvexport-") as scratch:
            found = outcome(search(Here(Path(scratch)), cell, entry.name), names)
        document = measured()
        document["networks"].setdefault(entry.name, {})[target] = found
        write(document)


def write(document: dict[str, Any]) -> None:
    """Keep what has been measured, and put the table into the page."""
    KEPT.write_text(json.dumps(document, indent=1) + "\n")
    PAGE.write_text(BETWEEN.sub(lambda m: m[1] + table(document) + m[2], PAGE.read_text()))


def outcome(made: Search, names: Names) -> dict[str, Any]:
    """Ratio and calls of one network with these rewrites."""
    found = {"rewrites": names, **(compare(made, names) if names else {"ratio": 1.0, "spread": [1.0, 1.0]})}
    artifact = made.make(names)
    if made.cell.target == DELEGATED and artifact is not None:
        found["calls"], found["outside"] = parts(artifact)
    return found


def table(document: dict[str, Any]) -> str:
    """Networks down, smallest first; delegate calls, and the ratio for each target."""
    lines = ["| network | delegate calls | " + " | ".join(TARGETS) + " |", "|---" * (2 + len(TARGETS)) + "|"]
    for name in sorted(document["networks"], key=lambda n: ENTRIES[n].parameters):
        found = document["networks"][name]
        ratios = [f"{found[t]['ratio']:.2f}" if t in found else "" for t in TARGETS]
        lines.append(f"| `{name}` | {found.get('executorch', {}).get('calls', '')} | {' | '.join(ratios)} |")
    return "\n".join(lines) + f"\n\nOne thread of {document['machine']}.\n"


def main() -> None:
    arguments = sys.argv[1:]
    if arguments[:1] == ["--here"]:
        measure(arguments[1])
        return
    for target in arguments or TARGETS:  # converters do not all bear each other in one process
        subprocess.run([sys.executable, "-m", "tools.check_defaults", "--here", target], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
