"""How a case can end, and its record on disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from _pytest.outcomes import Skipped

Outcome: TypeAlias = Literal["passed", "failed", "skipped", "excluded", "begun"]
BEGUN: Outcome = "begun"
COLLECTED = "collected.txt"


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


def note_collected(folder: Path, count: int) -> None:
    """Keeps how many cases the suite has, of which some may have been drawn."""
    (folder / COLLECTED).write_text(str(count))


def collected(folder: Path) -> int:
    """How many cases the suite in a folder of record files has; 0 before it was run."""
    path = folder / COLLECTED
    return int(path.read_text()) if path.exists() else 0


def read(folder: Path) -> dict[str, Record]:
    """The last record of each case in a folder of record files; a line cut short by a kill is left out."""
    return {record.case: record for path in sorted(folder.glob("*.jsonl")) for record in _lines(path)}


def _lines(path: Path) -> Iterator[Record]:
    for line in path.read_text().splitlines():
        try:
            yield Record(**json.loads(line))
        except ValueError:
            continue
