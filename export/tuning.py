"""Which rewrites make an artifact fastest, by making and timing it with each.

The search starts from none or all of the rewrites, whichever is faster, and changes those that help for as long as any
does; then two at a time; then the order. What it finds is kept with the program, the runtime and the processor that
it was measured on.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import statistics
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pydantic import TypeAdapter, ValidationError

from lvexport import files
from lvexport.converters.contract import Captured
from lvexport.converters.rewrites.registry import REWRITES
from lvexport.errors import CellError, LvexportError
from lvexport.jobs import DESCRIPTION, ConvertJob, DescribeJob, Job
from lvexport.models.hub import cache_root
from lvexport.plan import Cell, code_digest, measured_here
from lvexport.processes import Stop, Workshop
from lvexport.timing import times

Names = tuple[str, ...]
Say = Callable[[str], None]

GAIN = 0.99  # of the time before, that a change has to come below; timings of the same artifact differ by less
THREADS = 1
ROUNDS, RUNS = 9, 5
# Where no runtime here is the target's own, these operators are counted, twice each, with all others: they move
# numbers and compute nothing.
LAYOUT = frozenset(
    {"transpose", "reshape", "cast", "expand_dims", "squeeze", "slice_by_index", "split", "concat", "stack", "tile"}
)
COUNTED = frozenset({"coreml", "executorch:coreml", "coreai"})

_timing = threading.Lock()  # two timings at once would disturb each other


@dataclass(frozen=True)
class Tuned:
    """The fastest rewrites in order. ``ratio``: the time with them over that without, with its least and largest value
    among the rounds; where nothing can be timed, of operators in place of time.
    """

    rewrites: Names
    ratio: float
    spread: tuple[float, float]
    tried: int
    runtime: str
    processor: str


TUNED = TypeAdapter(Tuned)


class Maker(Protocol):
    """What performs a search's jobs, such as a Workshop. ``do`` raises LvexportError where one fails."""

    @property
    def folder(self) -> Path: ...
    @property
    def stop(self) -> Stop: ...
    def do(self, job: Job) -> Any: ...


def tune(shop: Workshop, cell: Cell, captured: Captured, digest: str, say: Say) -> Tuned:
    """The rewrites for a cell, measured now or kept from an earlier time.

    ``digest`` is the captured program's. Raises LvexportError where the cell cannot be made without rewrites.
    """
    if not allowed(cell):
        return Tuned((), 1.0, (1.0, 1.0), 0, *measured_here(cell)[1:])
    path = kept(cell, digest)
    with suppress(OSError, ValidationError):  # none, or one that was damaged
        return TUNED.validate_json(path.read_bytes())
    found = Search(shop, cell, captured, say).run()
    with suppress(OSError):  # where nothing can be kept, what took so long to find is used all the same
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{threading.get_ident()}.part")
        part.write_bytes(TUNED.dump_json(found, indent=2))
        part.replace(path)
    return found


def kept(cell: Cell, digest: str) -> Path:
    """Where the result for a cell and a captured program is kept."""
    parts = [digest, cell.target, cell.recipe, dict(cell.options), measured_here(cell), code_digest()]
    name = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return cache_root() / "tuned" / f"{name}.json"


def allowed(cell: Cell) -> Names:
    """The rewrites that may be tried: none that squares numbers where half precision squares them.

    And none at all where weights were rounded to integers, which combining them with others would undo.
    """
    recipe = cell.converter.recipes[cell.recipe]
    if recipe.weights is not None:
        return ()
    return tuple(r.name for r in REWRITES.values() if r.suits(cell.target, recipe))


@dataclass
class Search:
    """One search, with what it has made so far: the artifact of each sequence, None where it could not be made.

    ``starts``: sequences that it may start from, besides none and all. ``rounds``: of single changes, so many at most;
    None: until none helps, and then two at a time, and the order.
    """

    shop: Maker
    cell: Cell
    captured: Captured
    say: Say
    starts: tuple[Names, ...] = ()
    rounds: int | None = None
    artifacts: dict[Names, Path | None] = field(default_factory=dict)
    digests: dict[Names, str] = field(default_factory=dict)

    def run(self) -> Tuned:
        names = allowed(self.cell)
        if self.make(()) is None:
            raise CellError("it cannot be made without rewrites either")
        best = self.better((), dict.fromkeys([names, *self.starts])) or ()
        for _ in itertools.count() if self.rounds is None else range(self.rounds):
            following = self.following(best, names)
            if following is None:
                break
            best = following
        best = self.bare(best) if self.rounds != 0 else best
        ratios = self.ratios([(), best])[1] if best else [1.0]
        if statistics.median(ratios) > 1:
            best, ratios = (), [1.0]
        runtime, processor = measured_here(self.cell)[1:]
        return Tuned(
            best, statistics.median(ratios), (min(ratios), max(ratios)), len(self.artifacts), runtime, processor
        )

    def following(self, best: Names, names: Names) -> Names | None:
        """A sequence that is faster than the best so far, None where none is found."""
        single = self.changed(best, names)
        if single is not None or self.rounds is not None:
            return single
        return self.better(best, toggled(best, self.telling(best, names), 2)) or self.better(best, swapped(best))

    def changed(self, best: Names, names: Names) -> Names | None:
        """The best with the one change that helps most, or with all that help, whichever is faster."""
        gains = self.gains(best, toggled(best, names, 1))
        if not gains:
            return None
        together = best
        for sequence in gains:
            together = _toggle(together, tuple(set(sequence) ^ set(best)))
        first = min(gains, key=gains.__getitem__)
        return self.better(first, [together]) or first

    def make(self, sequence: Names) -> Path | None:
        """The artifact after these rewrites."""
        if sequence not in self.artifacts:
            out = self.shop.folder / f"tuned-{id(self)}-{len(self.artifacts)}{self.cell.converter.suffix}"
            self.say(f"tuning, {len(self.artifacts) + 1} made")
            job = ConvertJob(
                self.cell.target, self.cell.recipe, dict(self.cell.options), self.captured, out, rewrites=sequence
            )
            try:
                self.shop.do(job)
            except LvexportError:
                if self.shop.stop.is_set():
                    raise
                self.artifacts[sequence] = None
            else:
                self.artifacts[sequence] = out
                self.digests[sequence] = files.digest(out)
        return self.artifacts[sequence]

    def better(self, best: Names, candidates: Iterable[Names]) -> Names | None:
        """The fastest of the candidates, if it gains on the best so far."""
        gains = self.gains(best, candidates)
        return min(gains, key=gains.__getitem__) if gains else None

    def gains(self, best: Names, candidates: Iterable[Names]) -> dict[Names, float]:
        """Those candidates that gain on the best so far, with their cost over its."""
        fresh = self.distinct(best, candidates)
        if not fresh:
            return {}
        measured = [statistics.median(r) for r in self.ratios([best, *fresh])[1:]]
        return {sequence: ratio for sequence, ratio in zip(fresh, measured, strict=True) if ratio < GAIN}

    def distinct(self, best: Names, candidates: Iterable[Names]) -> list[Names]:
        """Those candidates that can be made and make something else than each other and the best so far."""
        seen, found = {self.digests[best]}, []
        for sequence in candidates:
            if self.make(sequence) is not None and self.digests[sequence] not in seen:
                seen.add(self.digests[sequence])
                found.append(sequence)
        return found

    def telling(self, best: Names, names: Names) -> Names:
        """The rewrites that change the artifact when they alone are added or left out."""
        changed = [
            name
            for name, sequence in zip(names, toggled(best, names, 1), strict=True)
            if self.distinct(best, [sequence])
        ]
        return tuple(changed)

    def bare(self, best: Names) -> Names:
        """The sequence without rewrites that change nothing."""
        for name in best:
            without = tuple(n for n in best if n != name)
            if self.make(without) is not None and self.digests[without] == self.digests[best]:
                best = without
        return best

    def ratios(self, sequences: Sequence[Names], rounds: int = ROUNDS) -> list[list[float]]:
        """Each one's cost over the first one's, round by round."""
        made = [path for s in sequences if (path := self.artifacts[s]) is not None]
        if self.cell.target in COUNTED:
            costs = [self.operators(path) for path in made]
            return [[cost / costs[0]] for cost in costs]
        with _timing:
            measured = times([(self.cell.target, path) for path in made], THREADS, rounds, RUNS)
        return [
            [statistics.median(turn[i]) / statistics.median(turn[0]) for turn in measured] for i in range(len(made))
        ]

    def operators(self, artifact: Path) -> float:
        """How many operators an artifact has, those twice that only move numbers."""
        described = DESCRIPTION.validate_python(self.shop.do(DescribeJob(self.cell.target, artifact)))
        total = sum(n * (2 if name in LAYOUT else 1) for name, n in described.operators.items() if name != "const")
        return total or math.inf


def toggled(best: Names, names: Names, count: int) -> list[Names]:
    """The sequence with ``count`` rewrites added, each at its usual place, or left out."""
    return [_toggle(best, chosen) for chosen in itertools.combinations(names, count)]


def _toggle(best: Names, chosen: Names) -> Names:
    left = [name for name in best if name not in chosen]
    order = list(REWRITES)
    for name in chosen:
        if name not in best:
            place = next((i for i, other in enumerate(left) if order.index(other) > order.index(name)), len(left))
            left.insert(place, name)
    return tuple(left)


def swapped(best: Names) -> list[Names]:
    """The sequence with each two neighbours in the other order."""
    return [(*best[:i], best[i + 1], best[i], *best[i + 2 :]) for i in range(len(best) - 1)]
