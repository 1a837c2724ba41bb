"""Finding the operation with which a half-precision program leaves the range of its numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TypeAlias

from torch import Tensor

from lvexport.validation.mil.halves import all_finite
from lvexport.validation.mil.nesting import Results, Value
from lvexport.validation.mil.numerics import is_half
from lvexport.validation.mil.step import Step

Place: TypeAlias = tuple[str, int]  # an operation, and which of its runs: a loop has it run several times

INSIDE = float("inf")  # stands for a sum inside an operation, which no other numerics can excuse


class NotFinite:
    """Watches for half-precision numbers that are not finite.

    Attributes:
        found: how many of them each operation made that made some, in the order in which these ran.
    """

    def __init__(self) -> None:
        self.found: dict[Place, float] = {}
        self._runs: Counter[str] = Counter()

    def __call__(self, step: Step, values: Mapping[str, Value], run: Callable[[], Results]) -> Results:
        results = run()
        call = step.call
        self._runs[call.op] += 1
        halves = [value for value, declared in zip(results, call.outputs, strict=True) if is_half(declared)]
        count: float = sum(map(_count, halves))
        if call.sums.overflowed:
            call.sums.overflowed, count = False, INSIDE
        if count:
            self.found[call.op, self._runs[call.op]] = count
        return results


def first_overflow(seen: NotFinite, exact: NotFinite) -> str | None:
    """The first operation that made more such numbers than the same program does when nothing is rounded.

    An infinity that the program means, such as that of a mask, is in both.
    """
    for place, count in seen.found.items():
        if count > exact.found.get(place, 0):
            return place[0]
    return None


def _count(value: Tensor) -> int:
    return 0 if all_finite(value) else int((~value.isfinite()).sum())
