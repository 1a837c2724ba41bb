"""Blocks inside an operation: how an operation runs them, and what a prediction may take of time and memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from lvexport.validation.mil.errors import FailedOp

if TYPE_CHECKING:
    from lvexport.validation.mil.step import Step

Value: TypeAlias = Any  # a tensor, a list, a state; a classifier also makes a label and a dictionary
Results: TypeAlias = tuple[Value, ...]  # of one step, in order
Run: TypeAlias = Callable[..., tuple[Value, ...]]  # a block: its inputs → its outputs, in order
Blocks: TypeAlias = tuple[Run, ...]

MOST_ROUNDS = 2**16  # of all loops in one prediction; a tiny body takes 50 µs, so an endless loop ends in seconds


class Watch(Protocol):
    """Looks on while the steps of a prediction run."""

    def __call__(self, step: Step, values: Mapping[str, Value], run: Callable[[], Results]) -> Results:
        """To return what ``run``, which runs the step on ``values``, returns."""
        ...


class Meter:
    """Counts how often nested blocks run in one prediction, and the bytes of the values that are live in it.

    A program cannot be checked for loops without end, so that one which goes round too often is given up. A model
    that needs more (``mil.load(path, most_rounds=…)``) is not wrong, but a larger one than was ever seen.

    Attributes:
        watch: of the steps, if someone is to look on.
    """

    def __init__(
        self, most_rounds: int = MOST_ROUNDS, watch: Watch | None = None, most_bytes: int | None = None
    ) -> None:
        self.watch = watch
        self._most = most_rounds
        self._left = 2 * most_rounds  # a round runs two blocks: the condition and the body
        self._most_bytes = physical_memory() if most_bytes is None else most_bytes
        self._live = 0

    def count(self) -> None:
        """To be called before a nested block runs.

        Raises:
            FailedOp: too many have run.
        """
        self._left -= 1
        if self._left < 0:
            raise FailedOp(
                f"The program's loops went round {self._most:,} times without an end, so the prediction was given "
                "up. A model that is meant to do more is loaded with mil.load(path, most_rounds=…)."
            )

    def expect(self, size: int, op: str) -> None:
        """To be called before ``op`` makes values of ``size`` bytes.

        Raises:
            FailedOp: with those that are live, they would take too much.
        """
        if self._live + size > self._most_bytes:
            raise FailedOp(
                f"The values that are live when the operation {op} runs would take {self._live + size:,} bytes, over "
                f"{self._most_bytes:,}, so the prediction was given up. A model that is meant to take more is loaded "
                "with mil.load(path, most_bytes=…); the default is the memory that this machine has."
            )

    def hold(self, size: int) -> None:
        """Notes that values of ``size`` bytes are live; they are let go with a negative one."""
        self._live += size


def physical_memory() -> int:
    """Of this machine, in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
