"""Everything that can go wrong with a package, as one family of exceptions.

The text of each is a paragraph for the person who has the package in hand: what was found, where, and what
would have been right.
"""

from __future__ import annotations

from collections.abc import Mapping


class MilError(RuntimeError):
    """A Core ML package could not be read or run. All errors that this package raises on purpose descend from it.

    It is a RuntimeError because that is what a failure of Core ML's becomes in coremltools, and what its callers catch.
    """


class DamagedPackage(MilError):
    """The package contradicts itself or its format: cut short, altered, or never a package."""


class UnsupportedModel(MilError):
    """The package is sound, as far as was read, but holds something that the interpreter does not take."""


class UnsupportedOp(UnsupportedModel):
    """The program uses operations that the op table lacks.

    Attributes:
        ops: how many times the program uses each of the missing operations, by name.
    """

    def __init__(self, ops: Mapping[str, int], opset: str) -> None:
        self.ops = dict(ops)
        listed = ", ".join(f"{name} ({count}×)" for name, count in sorted(ops.items()))
        super().__init__(
            f"The program uses operations that this interpreter does not have in opset {opset}: {listed}. "
            "Nothing was run, because leaving an operation out would give a wrong result."
        )


class BadInput(MilError):
    """What was passed to predict does not fit the model's inputs or value names."""


class FailedOp(MilError):
    """An operation could not be computed: its parameters contradict its inputs, or an index lies outside."""
