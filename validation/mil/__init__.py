"""Reference interpreter of Core ML packages: runs a saved ``.mlpackage`` with torch as its arithmetic.

Everything is read back from the files: the manifest, the model specification, the MIL program and its weights.
It needs no macOS, so what a converter wrote can be proved where it was written::

    from lvexport.validation import mil

    model = mil.load("mobilevit_xxs.mlpackage")
    model.predict({"image": array})["logits"]
    model.predict({"image": array}, outputs=["conv2d_3"])  # any value of the program
    model.predict({"token": array}, state=model.make_state())  # a model that keeps states
    print(model.profile({"image": array}))  # time and bytes of every operation

float32 is computed in float32. How half precision is computed differs between devices, so ``load`` takes it as an
option; between its values lies what a device may make of the program::

    mil.load(path, numerics="exact")  # nothing is rounded to float16; its values are returned as float32
    mil.load(path, numerics="rounded")  # every operation's result is; sums are accumulated in float32 (the default)
    mil.load(path, numerics="pessimistic")  # and sums are accumulated in float16, one rounded term after the other

Importing this package is cheap; torch is imported by ``load``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lvexport.validation.mil.errors import (
    BadInput,
    DamagedPackage,
    FailedOp,
    MilError,
    UnsupportedModel,
    UnsupportedOp,
)
from lvexport.validation.mil.nesting import MOST_ROUNDS

if TYPE_CHECKING:
    from lvexport.validation.mil.model import Model

__all__ = ["BadInput", "DamagedPackage", "FailedOp", "MilError", "UnsupportedModel", "UnsupportedOp", "load"]


def load(
    path: str | Path,
    function_name: str | None = None,
    numerics: str = "rounded",
    most_rounds: int = MOST_ROUNDS,
    most_bytes: int | None = None,
) -> Model:
    """Reads the ``.mlpackage`` at ``path``; see ``model.Model`` for what can be done with the result.

    Args:
        path: of the ``.mlpackage`` folder.
        function_name: of several functions in the package, which one; its default function if None.
        numerics: how half precision is computed: ``exact``, ``rounded`` or ``pessimistic`` (``numerics.Numerics``).
        most_rounds: after how many rounds of its loops, all taken together, a prediction is given up: nothing
            else ends a loop that a damaged package runs forever.
        most_bytes: how much the values that are live at once in a prediction, constants left out, may take before
            it is given up; the memory that the machine has if None.

    Raises:
        BadInput: there are no such numerics.
        MilError: it is damaged, has no such function, or holds something that the interpreter does not take.
    """
    from lvexport.validation.mil.model import Model
    from lvexport.validation.mil.numerics import Numerics

    return Model.load(path, function_name, Numerics.named(numerics), most_rounds, most_bytes)
