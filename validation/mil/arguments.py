"""In which Python form an operation's parameter arrives, and how a bound value is brought into that form.

An operation is a Python function whose annotations say it: ``x: Tensor`` arrives as a tensor, ``axis: int`` as a
Python integer, ``axes: tuple[int, ...]`` as a tuple of them. Most such parameters are constants and are converted
once, when the program is read; those that are computed are converted at each call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import UnionType
from typing import Any, TypeAlias, Union, get_args, get_origin, get_type_hints

from torch import Tensor

from lvexport.validation.mil.call import Call
from lvexport.validation.mil.lists import TensorList
from lvexport.validation.mil.nesting import Blocks, Value
from lvexport.validation.mil.states import Cell
from lvexport.validation.mil.types import Array, Shape
from lvexport.validation.mil.values import Label

Scalar: TypeAlias = bool | int | float


class Form(Enum):
    """The Python form of a parameter."""

    TENSOR = "a tensor"
    TENSORS = "tensors"
    BOOL = "a truth value"
    INT = "an integer"
    FLOAT = "a number"
    SCALAR = "a number or a truth value"
    STR = "text"
    BOOLS = "truth values"
    INTS = "integers"
    LABELS = "labels"
    VALUES = "values of any kind"
    SIZES = "sizes, or names where a size is known only when the model runs"
    LIST = "a list"
    STATE = "a state"
    CALL = "the call itself"
    BLOCKS = "the operation's blocks"


FORMS: dict[Any, Form] = {
    Tensor: Form.TENSOR,
    tuple[Tensor, ...]: Form.TENSORS,
    bool: Form.BOOL,
    int: Form.INT,
    float: Form.FLOAT,
    Scalar: Form.SCALAR,
    str: Form.STR,
    tuple[bool, ...]: Form.BOOLS,
    tuple[int, ...]: Form.INTS,
    tuple[Label, ...]: Form.LABELS,
    tuple[Value, ...]: Form.VALUES,
    Shape: Form.SIZES,
    TensorList: Form.LIST,
    Cell: Form.STATE,
    Call: Form.CALL,
    Blocks: Form.BLOCKS,
}
MOST_NUMBERS = 2**16  # in a parameter that is not a tensor; as Python's, each takes 36 bytes
NOT_ARGUMENTS = (Form.CALL, Form.BLOCKS)  # told by the program, not bound by it
KINDS = {Form.BOOL: "b", Form.BOOLS: "b", Form.INT: "iu", Form.INTS: "iu", Form.FLOAT: "iuf", Form.SCALAR: "biuf"}


@dataclass(frozen=True)
class Parameter:
    """One parameter of an operation."""

    form: Form
    required: bool


def parameters(function: Callable[..., Any]) -> Mapping[str, Parameter]:
    """The parameters of an operation's function, by name, from its annotations and defaults."""
    hints = get_type_hints(function)
    signature = inspect.signature(function)
    return {
        name: Parameter(_form(hints[name]), parameter.default is inspect.Parameter.empty)
        for name, parameter in signature.parameters.items()
    }


def _form(annotation: Any) -> Form:
    if annotation not in FORMS and get_origin(annotation) in (Union, UnionType):
        # Written as "… | None": the operation does without it.
        (annotation,) = (argument for argument in get_args(annotation) if argument is not type(None))
    return FORMS[annotation]


def from_array(form: Form, array: Array) -> Any:
    """A numeric value in the form of a parameter other than a tensor.

    Raises:
        ValueError: the value cannot take that form.
    """
    if array.dtype.kind not in KINDS[form]:
        raise ValueError(f"elements of type {array.dtype} are given where {form.value} should be")
    if form in (Form.BOOLS, Form.INTS):
        if array.size > MOST_NUMBERS:
            raise ValueError(f"{array.size} elements are given, too many for {form.value}")
        return tuple(array.reshape(-1).tolist())
    if array.size != 1:
        raise ValueError(f"{array.size} elements are given where {form.value} should be")
    value = array.reshape(-1)[0].item()
    return float(value) if form is Form.FLOAT else value
