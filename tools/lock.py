"""Prints the exact version of everything that ``pip install '.[all,dev]'`` would install here: ``make lock``."""

from __future__ import annotations

import json
import subprocess
import sys

HEADER = "# Exact versions for Python 3.11 on Linux x86-64. Made by `make lock`; install with `pip install -r`.\n"


def pins(report: dict[str, list[dict[str, dict[str, str]]]]) -> list[str]:
    """``name==version`` of each package in pip's report, but for lvexport itself."""
    found = {item["metadata"]["name"].lower(): item["metadata"]["version"] for item in report["install"]}
    found.pop("lvexport", None)
    # A local label such as +cpu names one build of a version; the version is what converters depend on.
    return [f"{name}=={version.partition('+')[0]}" for name, version in sorted(found.items())]


def main() -> None:
    line = ["-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-", ".[all,dev]"]
    answer = subprocess.run([sys.executable, *line], check=True, capture_output=True, text=True)
    print(HEADER + "\n".join(pins(json.loads(answer.stdout))))


if __name__ == "__main__":
    main()
