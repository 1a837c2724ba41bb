"""How a case can end, and its record on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from _pytest.outcomes import Skipped

Outcome: TypeAlias = Literal["passed", "failed", "skipped", "excluded", "begun"]
BEGUN: Outcome = "begun"
DRAWN = "drawn.json"


class Excluded(Skipped):
    """Raised where a case asks for something that the interpreter, by its purpose, does not have.

    It is no ``Exception``, so that neither coremltools nor a test takes it for the error that it expects.
    """


@dataclass(frozen=True)
class Record:
    """What became of one case.

    Attributes:
        case: pytest's name of it, which begins with the test file below site-packages.
        outcome: ``skipped`` by a condition in coremltools' test, ``excluded`` by us; ``begun`` is written before a
            case and stands alone where it took the process down.
        reason: why it failed, was skipped or excluded.
        predictions: how many were asked for; 0 where the test only looks at the converted program.
        refused: how many times the interpreter refused a model or could not compute it.
        seconds: wall-clock time.
    """

    case: str
    outcome: Outcome
    reason: str = ""
    predictions: int = 0
    refused: int = 0
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        return self.outcome in ("failed", BEGUN)

    @property
    def unasked(self) -> bool:
        """Whether it failed before the interpreter was asked for anything, by coremltools' own doing."""
        return self.outcome == "failed" and not self.predictions and not self.refused

    @property
    def file(self) -> str:
        return self.case.partition("::")[0]


def append(path: Path, record: Record) -> None:
    with path.open("a") as file:
        file.write(json.dumps(asdict(record)) + "\n")


def note_drawn(folder: Path, collected: int, drawn: Sequence[str]) -> None:
    """Keeps how many cases the suite has, and the names of those that are to be run."""
    # Every process of a run writes the same; renamed, so that none is read half written.
    beside = folder / f"{DRAWN}.{os.getpid()}"
    beside.write_text(json.dumps({"collected": collected, "drawn": drawn}))
    beside.replace(folder / DRAWN)


def drawn(folder: Path) -> tuple[int, list[Record]]:
    """How many cases the suite has, and the records of those that the last run was to run.

    A test file that could not be imported, whose cases nobody knows, is among them.
    """
    kept = json.loads((folder / DRAWN).read_text())
    names = set(kept["drawn"])
    found = read(folder)
    lacking = names - found.keys()
    if lacking:  # a process that could not import a file, say
        raise SystemExit(f"{len(lacking)} cases have no record in {folder}, {min(lacking)} among them. Add --resume.")
    return kept["collected"], [record for case, record in found.items() if case in names or "::" not in case]


def read(folder: Path) -> dict[str, Record]:
    """The last record of each case in a folder of record files; a line cut short by a kill is left out."""
    return {record.case: record for path in sorted(folder.glob("*.jsonl")) for record in _lines(path)}


def _lines(path: Path) -> Iterator[Record]:
    for line in path.read_text().splitlines():
        try:
            yield Record(**json.loads(line))
        except ValueError:
            continue
