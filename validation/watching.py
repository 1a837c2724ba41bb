"""A Core ML package computed with one of the interpreter's numerics, on the lookout for its first overflow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lvexport.validation.contract import JUDGED, Overflow

NUMERICS = ("exact", JUDGED, "pessimistic")  # they bound what devices do with a package in half precision


class Watched:
    """``model`` has the package with these ``numerics``; ``load`` gives it with others, by their name."""

    def __init__(self, model: Any, numerics: str, load: Callable[[str], Any]) -> None:
        self.numerics = numerics
        self.overflow: Overflow | None = None
        self._model, self._load = model, load
        self._exact: Any = None  # only loaded if there is something to compare
        self._earlier: list[Mapping[str, Any]] = []  # what was run since the states were new

    def restart(self) -> None:
        """To be called where states begin anew."""
        self._earlier = []

    def predict(self, data: Mapping[str, Any], state: Any = None) -> Mapping[str, Any]:
        """As coremltools' ``predict``."""
        from lvexport.validation.mil.overflow import NotFinite

        seen = NotFinite()
        answer: Mapping[str, Any] = self._model.watched(data, seen, state)
        if seen.found and self.overflow is None:
            self.overflow = self._compared(data, seen)
        if state is not None:
            self._earlier.append(data)
        return answer

    def _compared(self, data: Mapping[str, Any], seen: Any) -> Overflow | None:
        """With what the program makes of the same data, and of all since the states were new, without rounding."""
        from lvexport.validation.mil.overflow import NotFinite, first_overflow

        self._exact = self._exact or self._load("exact")
        state, exact = new_state(self._exact, self._model), NotFinite()
        for earlier in self._earlier:
            self._exact.predict(earlier, state)
        self._exact.watched(data, exact, state)
        operation = first_overflow(seen, exact)
        return None if operation is None else Overflow(self.numerics, operation)


def new_state(engine: Any, model: Any) -> Any:
    """A state of zeros, as Core ML and the interpreter begin with; None for a model that keeps none."""
    return engine.make_state() if model.states else None
