"""The pytest plugin: replaces the extension module, and keeps a record of every case.

Loaded with ``-p coreml_suite.plugin`` before any test is imported.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import random
import re
import signal
import time
import zlib
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

from coreml_suite import absent, binding, exclusions, mac, outcomes
from coreml_suite.outcomes import Excluded, Outcome, Record

ADDRESS = re.compile(r"0x[0-9a-f]{6,}")  # of an object in a case's name, which differs from run to run
MISSING = re.compile(r"(?:ModuleNotFound|Import)Error: (.*?)(?: \(/|$)", re.MULTILINE)
LONGEST_REASON = 600  # characters
LONGEST_NAME = 400


class TooLong(BaseException):
    """A case ran past its time. No ``Exception``, so that a test does not take it for one that it expects."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("conformance")
    group.addoption("--records", type=Path, help="folder of the record files")
    group.addoption("--share", default="0/1", help="K/N: of every N cases the K-th")
    group.addoption("--sample", type=int, default=0, help="that many cases, drawn at random; 0 for all")
    group.addoption("--each", type=int, default=0, help="at most that many cases of every test function, at random")
    group.addoption("--seed", type=int, default=0, help="of the sample")
    group.addoption("--retry", action="store_true", help="run the cases anew that failed")
    group.addoption("--case-seconds", type=int, default=120, help="limit of one case on the processor")


def pytest_load_initial_conftests() -> None:
    """The first conftest file already imports coremltools, its own package."""
    binding.install()
    mac.pretend()
    absent.stand_in()


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Recorder(config), "conformance-recorder")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """coremltools' asynchronous tests count on a plugin for pytest that runs them."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


class Recorder:
    """Chooses the cases of this process and writes down what becomes of each."""

    def __init__(self, config: pytest.Config) -> None:
        self.folder: Path = config.getoption("--records")
        self.share, self.shares = map(int, config.getoption("--share").split("/"))
        self.sample: int = config.getoption("--sample")
        self.each: int = config.getoption("--each")
        self.seed: int = config.getoption("--seed")
        self.retry: bool = config.getoption("--retry")
        self.limit: int = config.getoption("--case-seconds")
        self.path = self.folder / f"{time.time_ns()}-{self.share}.jsonl"  # in order of time
        self.names: dict[str, str] = {}
        self.outcome: tuple[Outcome, str] = ("passed", "")

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Cases are drawn and shared out by their place, which is the same in every process."""
        absent.leave()
        mac.pretend_to_tests()
        self.names = _names(items)
        chosen = self._drawn(items)
        outcomes.note_drawn(self.folder, len(items), [self.names[item.nodeid] for item in chosen])
        done = outcomes.read(self.folder).items()
        finished = {case for case, record in done if not (self.retry and record.failed)}
        items[:] = [
            item
            for place, item in enumerate(chosen)
            if place % self.shares == self.share and self.names[item.nodeid] not in finished
        ]

    def _drawn(self, items: list[pytest.Item]) -> list[pytest.Item]:
        """The sample, in the order in which the cases stand."""
        chance = random.Random(self.seed)
        places = list(range(len(items)))
        chance.shuffle(places)
        if self.each:
            seen: Counter[str] = Counter()
            functions = [item.nodeid.partition("[")[0] for item in items]
            places = [
                place for place in places if seen.update([functions[place]]) or seen[functions[place]] <= self.each
            ]
        return [items[place] for place in sorted(places[: self.sample or len(places)])]

    def pytest_collection_finish(self) -> None:
        """The cases stay to the end, so that the garbage collector need not look at their many objects again."""
        gc.freeze()

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A test file that cannot be imported is one record: excluded if it needs a library that is not here."""
        if report.failed and self.share == 0:
            missing = MISSING.search(str(report.longrepr))
            outcome: Outcome = "excluded" if missing else "failed"
            why = f"the test file needs what is not installed here: {missing[1]}" if missing else _last_line(report)
            outcomes.append(self.path, Record(report.nodeid, outcome, why))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        name = self.names[item.nodeid]
        seed = zlib.crc32(name.encode())  # so that a case computes the same alone as among others
        np.random.seed(seed)
        random.seed(seed)
        binding.Proxy.predictions = binding.Proxy.refused = 0
        self.outcome = ("passed", "")
        outcomes.append(self.path, Record(name, outcomes.BEGUN, "the process ended while it ran"))
        start = time.monotonic()
        try:
            with _limited(self.limit):
                return (yield)
        finally:
            seconds = round(time.monotonic() - start, 3)
            counts = (binding.Proxy.predictions, binding.Proxy.refused)
            outcomes.append(self.path, Record(name, *self.outcome, *counts, seconds))

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        reason = exclusions.reason(self.names[item.nodeid])
        if reason:
            raise Excluded(reason)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[Any]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        excluded = call.excinfo and exclusions.reason_afterwards(call.excinfo.value)
        if excluded:
            self.outcome = ("excluded", excluded)
        elif report.failed:
            self.outcome = ("failed", _last_line(report))
        elif report.skipped and self.outcome[0] == "passed":
            self.outcome = ("skipped", _skip_reason(report))
        return report


@contextmanager
def _limited(seconds: int) -> Iterator[None]:
    """Stops a case that takes longer on the processor, or ten times as long by the clock, if it waits for something."""
    previous = [signal.signal(number, _stop) for number in (signal.SIGPROF, signal.SIGALRM)]
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.alarm(10 * seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        for number, handler in zip((signal.SIGPROF, signal.SIGALRM), previous, strict=True):
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> None:
    raise TooLong("the case ran past its time")


def _names(items: list[pytest.Item]) -> dict[str, str]:
    """A name for each case that is the same in every run, by pytest's own."""
    seen: Counter[str] = Counter()
    names = {}
    for item in items:
        name = ADDRESS.sub("0x", item.nodeid)[:LONGEST_NAME]
        seen[name] += 1
        names[item.nodeid] = name if seen[name] == 1 else f"{name}#{seen[name]}"
    return names


def _skip_reason(report: pytest.TestReport) -> str:
    if hasattr(report, "wasxfail"):
        return f"expected to fail: {report.wasxfail}"[:LONGEST_REASON]
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return reason.removeprefix("Skipped: ")[:LONGEST_REASON]


def _last_line(report: pytest.TestReport | pytest.CollectReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else str(report.longrepr)
    return text.strip()[:LONGEST_REASON]
