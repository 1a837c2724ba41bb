"""The op table: which function computes an operation, by its name and the opset that the program asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from lvexport.validation.mil.arguments import Parameter, parameters
from lvexport.validation.mil.program import Opset

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Entry:
    """An operation as one opset, and those after it, define it.

    Attributes:
        name: of the operation.
        function: takes the parameters by keyword and returns the result, or a tuple of them.
        parameters: of the function.
        exact: the results' elements are elements of the inputs, so that nothing is to be rounded.
        effect: it does something besides making results, so that it runs even if nobody uses them.
    """

    name: str
    function: Callable[..., Any]
    parameters: Mapping[str, Parameter]
    exact: bool
    effect: bool


_TABLE: dict[str, dict[Opset, Entry]] = {}


def op(name: str, *, since: Opset = Opset.IOS13, exact: bool = False, effect: bool = False) -> Callable[[F], F]:
    """Registers the decorated function as operation ``name`` from opset ``since`` on.

    The function's parameters have the operation's own names, and their annotations say in which form each arrives
    (``arguments.Form``); a default is the one that coremltools documents. A parameter annotated ``Call`` is not
    the operation's, but tells it where it stands.
    """

    def register(function: F) -> F:
        _TABLE.setdefault(name, {})[since] = Entry(name, function, parameters(function), exact, effect)
        return function

    return register


def find(name: str, opset: Opset) -> Entry | None:
    """The operation as a program of that opset means it; None if the table does not have it."""
    versions = _TABLE.get(name, {})
    since = max((version for version in versions if version <= opset), default=None)
    return None if since is None else versions[since]


def names() -> frozenset[str]:
    """Names of all operations in the table."""
    return frozenset(_TABLE)
