"""coremltools' own tests with predictions answered by the interpreter, counted: ``make conformance``.

    python tools/conformance.py [SUITE | PATH ...] [--resume] [--retry] [--processes N] [--sample N] [--each N]

SUITE is ``operations``, the tests of MIL's operations, whose result goes to docs/conformance.md; another name in
``coreml_suite/suites.py``; or ``others``, a sample of each of those, whose result goes to docs/conformance-suites.md.
PATH is a test file or folder of the installed wheel, such as ``coremltools/optimize``. Records are kept in
runs/conformance: with ``--resume`` an interrupted run goes on, with ``--retry`` it also runs the failed cases anew.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from coreml_suite import outcomes, overview, report
from coreml_suite.run import Suite, run
from coreml_suite.suites import SUITES, Part

ROOT = Path(__file__).parent.parent
PAGES = {"operations": ROOT / "docs" / "conformance.md", "others": ROOT / "docs" / "conformance-suites.md"}


def parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("which", nargs="*", default=["operations"], help=f"{', '.join(SUITES)}, others; or paths")
    parser.add_argument("--resume", action="store_true", help="keep the records of an earlier run")
    parser.add_argument("--retry", action="store_true", help="like --resume, but run failed cases anew")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--sample", type=int, help="that many cases drawn at random; 0 for all")
    parser.add_argument("--each", type=int, default=0, help="that many cases of every test function")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--case-seconds", type=int, default=120, help="limit of one case on the processor")
    parser.add_argument("--write", type=Path, help="file for the page")
    return parser.parse_args(arguments)


def asked_for(options: argparse.Namespace) -> dict[str, Part]:
    """The suites to run, by the name of their folder of records."""
    which = options.which
    if which == ["others"]:
        parts = {name: part for name, part in SUITES.items() if name != "operations"}
    elif all(name in SUITES for name in which):
        parts = {name: SUITES[name] for name in which}
    else:
        parts = {"+".join(path.strip("/").replace("/", "-") for path in which): Part("", tuple(which))}
    if options.sample is not None or options.each:
        parts = {name: replace(part, sample=options.sample or 0) for name, part in parts.items()}
    return parts


def carry_out(name: str, part: Part, options: argparse.Namespace) -> overview.Result:
    """Runs one suite and shows its table."""
    records = ROOT / "runs" / "conformance" / name
    if not (options.resume or options.retry):
        shutil.rmtree(records, ignore_errors=True)
    limits = (f"--case-seconds={options.case_seconds}", *(["--retry"] if options.retry else []))
    drawn = (part.sample, options.each, options.seed)
    run(Suite(part.paths, records, options.processes, *drawn, options=limits), report.Ticker(records))
    result = overview.Result(name, part, *outcomes.drawn(records))
    report.show(result.records)
    return result


def scope(part: Part, options: argparse.Namespace) -> str:
    """Which cases of a suite were asked for, in words."""
    if options.each:
        return f"at most {options.each} cases of every test function, drawn with seed {options.seed}"
    return f"{part.sample} cases drawn with seed {options.seed}" if part.sample else "every case"


def page(results: list[overview.Result], options: argparse.Namespace) -> str:
    if len(results) > 1:
        return overview.page(results, options.seed)
    (result,) = results
    return report.page(" ".join(result.part.paths), result.records, scope(result.part, options))


def destination(options: argparse.Namespace) -> Path | None:
    """A page in docs/ is written by the run that it is about, not by a smaller one."""
    whole = options.sample is None and not options.each and len(options.which) == 1
    return options.write or (PAGES.get(options.which[0]) if whole else None)


def main() -> int:
    options = parsed(sys.argv[1:])
    results = [carry_out(name, part, options) for name, part in asked_for(options).items()]
    path = destination(options)
    if path:
        path.write_text(page(results, options))
    return 1 if any(map(failed, results)) else 0


def failed(result: overview.Result) -> bool:
    return any(record.failed for record in result.records)


if __name__ == "__main__":
    sys.exit(main())
