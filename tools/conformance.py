"""coremltools' own tests with predictions answered by the interpreter, counted: ``make conformance``.

    python tools/conformance.py [PATH] [--resume] [--retry] [--processes N] [--sample N] [--each N]

PATH is a test file or folder of the installed wheel, such as ``coremltools/optimize``; without one it is the tests
of MIL's operations, and the result goes to docs/conformance.md. Records are kept in runs/conformance: with ``--resume``
an interrupted run goes on, with ``--retry`` it also runs the failed cases anew.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from coreml_suite import outcomes, report
from coreml_suite.exclusions import OPERATIONS
from coreml_suite.run import Suite, run

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "conformance.md"


def parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("path", nargs="?", default=OPERATIONS, help="below site-packages")
    parser.add_argument("--resume", action="store_true", help="keep the records of an earlier run")
    parser.add_argument("--retry", action="store_true", help="like --resume, but run failed cases anew")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--sample", type=int, default=0, help="that many cases drawn at random")
    parser.add_argument("--each", type=int, default=0, help="that many cases of every test function")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--case-seconds", type=int, default=120, help="limit of one case")
    parser.add_argument("--write", type=Path, help="file for the page")
    return parser.parse_args(arguments)


def scope(options: argparse.Namespace) -> str:
    """Which cases the options ask for, in words."""
    if options.each:
        return f"at most {options.each} cases of every test function, drawn with seed {options.seed}"
    return f"{options.sample} cases drawn with seed {options.seed}" if options.sample else "every case"


def main() -> int:
    options = parsed(sys.argv[1:])
    records = ROOT / "runs" / "conformance" / options.path.strip("/").replace("/", "-")
    if not (options.resume or options.retry):
        shutil.rmtree(records, ignore_errors=True)
    limits = (f"--case-seconds={options.case_seconds}", *(["--retry"] if options.retry else []))
    drawn = (options.sample, options.each, options.seed)
    run(Suite(options.path, records, options.processes, *drawn, options=limits), report.Ticker(records))
    results = list(outcomes.read(records).values())
    report.show(results)
    page = options.write or (PAGE if options.path == OPERATIONS and not (options.sample or options.each) else None)
    if page:
        page.write_text(report.page(options.path, results, scope(options)))
    return 1 if any(record.failed for record in results) else 0


if __name__ == "__main__":
    sys.exit(main())
