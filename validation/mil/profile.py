"""Where the time of a prediction goes, and how many bytes each operation moves."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lvexport.validation.mil.nesting import Results, Value
from lvexport.validation.mil.step import Step
from lvexport.validation.mil.types import TensorType

COLUMNS = ("ms", "share", "MB read", "MB written", "runs", "operation", "makes")


@dataclass(frozen=True)
class OpCost:
    """What one operation of the program cost in a prediction, all its runs together.

    Attributes:
        type: of the operation, such as ``conv``.
        name: of the first value that it makes, as ``predict`` takes it as an output; empty where it makes none.
        shape: of that value; None where it is no tensor.
        runs: how often it ran: more than once in a loop, not at all in a branch that was not taken.
        seconds: of wall time in the interpreter, that of operations in its blocks left out.
        read: bytes of the tensors that it takes, weights included.
        written: bytes of those that it makes.

    Bytes are counted in the types that the program declares, as if nothing were fused or kept in a cache.
    """

    type: str
    name: str
    shape: tuple[int, ...] | None
    runs: int
    seconds: float
    read: int
    written: int


@dataclass(frozen=True)
class Profile:
    """Of one prediction. ``str`` of it is a table of the operations that took longest.

    Attributes:
        ops: one for each operation that ran, in the order in which they first did.
        predictions: how many were timed; ``seconds`` of an operation is the median over them.
    """

    ops: tuple[OpCost, ...]
    predictions: int

    @property
    def seconds(self) -> float:
        """Of all operations."""
        return sum(op.seconds for op in self.ops)

    def by_type(self) -> dict[str, float]:
        """Seconds that all operations of a type took, the longest first."""
        spent: dict[str, float] = defaultdict(float)
        for op in self.ops:
            spent[op.type] += op.seconds
        return dict(sorted(spent.items(), key=lambda item: -item[1]))

    def table(self, most: int | None = 20) -> str:
        """The ``most`` operations that took longest (all if None), and the sums over all of them."""
        slowest = sorted(self.ops, key=lambda op: -op.seconds)[:most]
        rows = [COLUMNS, *(self._row(op) for op in slowest)]
        rows.append(self._row(self._total(), f"{len(self.ops)} operations"))
        widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
        return "\n".join(_line(row, widths) for row in rows)

    def __str__(self) -> str:
        return self.table()

    def _row(self, op: OpCost, what: str | None = None) -> tuple[str, ...]:
        share = op.seconds / self.seconds if self.seconds else 0.0
        figures = (f"{op.seconds * 1e3:.3f}", f"{share:.1%}", f"{op.read / 1e6:.3f}", f"{op.written / 1e6:.3f}")
        made = f"{op.name} {list(op.shape)}" if op.shape is not None else op.name
        return (*figures, f"{op.runs}", op.type if what is None else what, made)

    def _total(self) -> OpCost:
        runs = sum(op.runs for op in self.ops)
        return OpCost("", "", None, runs, self.seconds, sum(o.read for o in self.ops), sum(o.written for o in self.ops))


@dataclass
class _Entry:
    """One operation's costs in the prediction that is running."""

    step: Step
    shape: tuple[int, ...] | None
    runs: int = 0
    seconds: float = 0.0
    read: int = 0
    written: int = 0


@dataclass
class Profiler:
    """A watch that notes what each step costs."""

    _entries: dict[int, _Entry] = field(default_factory=dict)
    _nested: list[float] = field(default_factory=lambda: [0.0])  # seconds spent in blocks, one place a depth

    def __call__(self, step: Step, values: Mapping[str, Value], run: Callable[[], Results]) -> Results:
        self._nested.append(0.0)
        start = time.perf_counter()
        results = run()
        spent = time.perf_counter() - start
        own = spent - self._nested.pop()
        self._nested[-1] += spent
        entry = self._entries.setdefault(id(step.call), _Entry(step, _shape(results)))
        entry.runs += 1
        entry.seconds += own
        entry.read += sum(_taken(step, values))
        entry.written += sum(_made(step, results))
        return results

    def costs(self) -> list[OpCost]:
        """In the order in which the operations first ended."""
        return [
            OpCost(e.step.type, (*e.step.names, "")[0], e.shape, e.runs, e.seconds, e.read, e.written)
            for e in self._entries.values()
        ]


def profile(predict: Callable[[Profiler], Any], predictions: int) -> Profile:
    """Calls ``predict`` once to warm up and then as often as is said, each time with a watch of its own."""
    predict(Profiler())
    profilers = [Profiler() for _ in range(predictions)]
    for profiler in profilers:
        predict(profiler)
    columns: dict[tuple[str, str], list[OpCost]] = defaultdict(list)
    for profiler in profilers:
        for cost in profiler.costs():
            columns[cost.type, cost.name].append(cost)
    return Profile(tuple(map(_median, columns.values())), predictions)


def _median(costs: Sequence[OpCost]) -> OpCost:
    last = costs[-1]
    seconds = statistics.median(cost.seconds for cost in costs)
    return OpCost(last.type, last.name, last.shape, last.runs, seconds, last.read, last.written)


def _taken(step: Step, values: Mapping[str, Value]) -> Iterator[int]:
    given = {**step.fixed, **{argument.name: argument.get(values) for argument in step.wired}}
    for name, bits in step.bits.items():
        value = given[name]
        tensors = value if isinstance(value, tuple) else (value,)
        if all(isinstance(tensor, Tensor) for tensor in tensors):
            yield from (_bytes(tensor, each) for tensor, each in zip(tensors, bits, strict=True))


def _made(step: Step, results: Results) -> Iterator[int]:
    for value, declared in zip(results, step.call.outputs, strict=True):
        if isinstance(value, Tensor) and isinstance(declared, TensorType):
            yield _bytes(value, declared.dtype.bits)


def _bytes(tensor: Tensor, bits: int) -> int:
    return (tensor.numel() * bits + 7) // 8


def _shape(results: Results) -> tuple[int, ...] | None:
    return tuple(results[0].shape) if results and isinstance(results[0], Tensor) else None


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    texts = len(COLUMNS) - 2  # the last two columns are text, and what comes before are numbers
    numbers = (cell.rjust(width) for cell, width in zip(row[:texts], widths, strict=False))
    words = (cell.ljust(width) for cell, width in zip(row[texts:], widths[texts:], strict=True))
    return "  ".join((*numbers, *words)).rstrip()
