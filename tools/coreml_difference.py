"""The interpreter beside Core ML itself, on the models of coremltools' own tests: a table by type of operation.

    python tools/coreml_difference.py [PATH] [--each N] [--output FOLDER]

On a Mac the reference is Core ML. Elsewhere the interpreter is on both sides, which tries this program and nothing
else. PATH is a test file or folder of the installed wheel; of every test function, N cases are drawn. The folder
gets differences.md, differences.jsonl with a line for each output, and the records of the cases.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from coreml_suite import differences, outcomes, report
from coreml_suite.exclusions import OPERATIONS
from coreml_suite.run import Suite, run
from rich.console import Console
from rich.table import Table

REFERENCE = "Core ML" if sys.platform == "darwin" else "itself (no Core ML here)"


def parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("path", nargs="?", default=OPERATIONS, help="below site-packages")
    parser.add_argument("--each", type=int, default=3, help="cases of every test function; 0 for all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/difference"))
    return parser.parse_args(arguments)


def compare(
    path: str,
    output: Path,
    each: int = 3,
    seed: int = 0,
    plugins: tuple[str, ...] = (),
    folders: tuple[Path, ...] = (),
    options: tuple[str, ...] = (),
) -> list[differences.Difference]:
    """Runs the suite with both and writes the page; returns the differences."""
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    lines = output.resolve() / "differences.jsonl"
    suite = Suite(
        (path,),
        output / "records",
        each=each,
        seed=seed,
        plugins=("coreml_suite.compare", *plugins),
        folders=folders,
        options=(f"--differences={lines}", *options),
    )
    run(suite, report.Ticker(suite.records))
    found = differences.read(lines)
    (output / "differences.md").write_text(differences.page(found, REFERENCE))
    return found


def main() -> int:
    options = parsed(sys.argv[1:])
    found = compare(options.path, options.output, options.each, options.seed)
    table = Table(*differences.HEAD)
    for row in differences.rows(found):
        table.add_row(*row)
    Console().print(table)
    report.show(list(outcomes.read(options.output / "records").values()))
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main())
