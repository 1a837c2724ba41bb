"""Spreads a suite over processes, and begins anew those that a case takes down."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

TOOLS = Path(__file__).parent.parent
OUT_OF_CASES = (0, 1, 5)  # pytest: all passed, some failed, nothing left to run


@dataclass(frozen=True)
class Suite:
    """Which tests to run and how.

    Attributes:
        paths: files or folders of the wheel, relative to site-packages (``coremltools/optimize``); ``::`` may pick.
        records: folder of the record files.
        processes: each imports coremltools once.
        sample: number of cases to draw at random, 0 for all.
        each: at most so many cases of every test function, drawn at random; 0 for all.
        seed: of what is drawn.
        plugins: further pytest plugins, loaded before ours.
        folders: where else modules are looked for, such as those of the plugins.
        options: further options for pytest.
    """

    paths: tuple[str, ...]
    records: Path
    processes: int = 1
    sample: int = 0
    each: int = 0
    seed: int = 0
    plugins: tuple[str, ...] = ()
    folders: tuple[Path, ...] = ()
    options: tuple[str, ...] = ()


def site_packages() -> Path:
    """The folder that the installed coremltools is in."""
    spec = importlib.util.find_spec("coremltools")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("coremltools is not installed here. Install it with: pip install 'lvexport[coreml]'")
    return Path(spec.submodule_search_locations[0]).parent


def run(suite: Suite, progress: Callable[[], None] = lambda: None) -> None:
    """Runs what has no record yet. ``progress`` is called every few seconds."""
    suite.records.mkdir(parents=True, exist_ok=True)
    alive = {share: _start(suite, share) for share in range(suite.processes)}
    while alive:
        time.sleep(1)
        progress()
        for share, process in list(alive.items()):
            if process.poll() is None:
                continue
            if process.returncode in OUT_OF_CASES:
                del alive[share]
            elif process.returncode > 0:
                raise SystemExit(f"pytest could not run; see {_log(suite, share)}")
            else:  # A signal ended it: the case that it had begun has its record, and the rest goes on.
                alive[share] = _start(suite, share)


def _start(suite: Suite, share: int) -> subprocess.Popen[bytes]:
    options = [
        *("-p", "no:cacheprovider", "-q", "--no-header", "--tb=short", "--import-mode=importlib"),
        "--continue-on-collection-errors",
        *(option for plugin in suite.plugins for option in ("-p", plugin)),
        *("-p", "coreml_suite.plugin", f"--rootdir={site_packages()}", "-c", os.devnull),
        *(f"--records={suite.records.resolve()}", f"--share={share}/{suite.processes}"),
        *(f"--sample={suite.sample}", f"--each={suite.each}", f"--seed={suite.seed}"),
        *suite.options,
    ]
    with _log(suite, share).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "pytest", *options, *(str(site_packages() / path) for path in suite.paths)],
            cwd=suite.records,
            env=_environment(suite.folders),
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _environment(folders: Sequence[Path]) -> dict[str, str]:
    paths = [TOOLS, *folders, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}


def _log(suite: Suite, share: int) -> Path:
    return suite.records / f"{share}.log"
