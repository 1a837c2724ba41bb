"""Arguments of an operation: constants brought into their form once, and computed values fetched at each call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from lvexport.validation.mil.arguments import Form, Parameter, from_array
from lvexport.validation.mil.keeping import Room, tensor_of
from lvexport.validation.mil.nesting import Value
from lvexport.validation.mil.program import Binding
from lvexport.validation.mil.types import ListType, StateType, TensorType, ValueType
from lvexport.validation.mil.values import Constant

NEVER_COMPUTED = (Form.STR, Form.LABELS, Form.SIZES)
# Parameters that take several bindings, and the form of each of these.
SEVERAL = {Form.TENSORS: Form.TENSOR, Form.VALUES: Form.VALUES, Form.SIZES: Form.SIZES}
AS_TENSOR = (Form.TENSOR, Form.VALUES)
AS_IT_IS = (Form.TENSOR, Form.VALUES, Form.LIST, Form.STATE)
# As what a computed value may be declared to be passed in a form; for the others, as a tensor.
DECLARED: Mapping[Form, tuple[type[ValueType], ...]] = {
    Form.VALUES: (TensorType, ListType),
    Form.LIST: (ListType,),
    Form.STATE: (StateType,),
}


@dataclass(frozen=True)
class Known:
    """A constant, already in the form of its parameter."""

    value: Any

    def get(self, values: Mapping[str, Value]) -> Any:
        return self.value


@dataclass(frozen=True)
class Deferred:
    """A constant that is unpacked when it is asked for."""

    make: Callable[[], Value]
    form: Form

    def get(self, values: Mapping[str, Value]) -> Any:
        value = self.make()
        return value if self.form in AS_IT_IS else from_array(self.form, value.numpy())


@dataclass
class Unpacked:
    """Results of an operation that unpacks compressed constants: computed at their first use, and kept if they fit.

    A package is loaded before they are, and those that a prediction does not need are never computed.
    """

    run: Callable[[], tuple[Tensor, ...]]
    room: Room
    results: tuple[Tensor, ...] | None = None

    def get(self, place: int) -> Tensor:
        """The result at that place."""
        if self.results is not None:
            return self.results[place]
        results = self.run()
        size = sum(result.nbytes for result in results)
        # Another one like it is in memory while it is used, and what that is made of. An allocator leaves gaps, too.
        if self.room.take(size, spare=2 * size):
            self.results = results
        return results[place]


@dataclass(frozen=True)
class Computed:
    """A value that another operation makes, or an input, and the form in which it is wanted."""

    name: str
    form: Form

    def get(self, values: Mapping[str, Value]) -> Any:
        value = values[self.name]
        return value if self.form in AS_IT_IS else from_array(self.form, value.numpy())


@dataclass(frozen=True)
class Argument:
    """One parameter and where its value comes from; a parameter that takes a tuple has several sources."""

    name: str
    sources: tuple[Known | Deferred | Computed, ...]
    several: bool

    def get(self, values: Mapping[str, Value]) -> Any:
        """The argument, given the values computed so far."""
        if self.several:
            return tuple(source.get(values) for source in self.sources)
        return self.sources[0].get(values)

    @property
    def fixed(self) -> bool:
        """Whether its value is known when the program is read."""
        return all(isinstance(source, Known) for source in self.sources)

    def uses(self) -> list[str]:
        """Names of the computed values that it needs."""
        return [source.name for source in self.sources if isinstance(source, Computed)]


@dataclass(frozen=True)
class Constants:
    """The constants of a block.

    Attributes:
        stored: as the program holds them.
        room: where those are kept that were asked for as tensors, those of all blocks together.
        outer: of the block around this one, which sees them too.
        unpacked: results of compressed constants.
    """

    stored: Mapping[str, Constant]
    room: Room
    outer: Constants | None = None
    unpacked: dict[str, Callable[[], Tensor]] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return self._owner(name) is not None

    def value(self, name: str) -> Value:
        """The constant as an operation's result would be: a tensor, or what ``Constant`` holds of text."""
        owner = self._owner(name)
        assert owner is not None, name
        if name in owner.unpacked:
            return owner.unpacked[name]()
        constant = owner.stored[name]
        return self._bound(constant, Form.TENSOR, True).get({}) if constant.numeric else constant.value

    def source(self, binding: Binding, form: Form, lasting: bool = True) -> Known | Deferred | Computed:
        """Where an argument of that form comes from.

        Args:
            binding: what is bound to it.
            form: that it is wanted in.
            lasting: whether a tensor is kept for the next time, if there is room.

        Raises:
            ValueError: the constant cannot take that form.
        """
        if isinstance(binding, Constant):
            return self._bound(binding, form, lasting)
        owner = self._owner(binding.name)
        if owner is None and form in NEVER_COMPUTED:
            raise ValueError("a computed value is given where a constant is expected")
        if owner is None:
            return Computed(binding.name, form)
        if binding.name not in owner.unpacked:
            return self._bound(owner.stored[binding.name], form, lasting)
        if form in NEVER_COMPUTED:
            raise ValueError("a compressed constant is given where text is expected")
        return Deferred(owner.unpacked[binding.name], form)

    def _bound(self, constant: Constant, form: Form, lasting: bool) -> Known | Deferred:
        if form not in AS_TENSOR or not constant.numeric:
            return Known(_known(constant, form))
        kept = self.room.tensor(constant) if lasting else None
        return Deferred(partial(tensor_of, constant), form) if kept is None else Known(kept)

    def _owner(self, name: str) -> Constants | None:
        if name in self.stored or name in self.unpacked:
            return self
        return self.outer._owner(name) if self.outer else None


def bind(
    name: str, parameter: Parameter, bindings: tuple[Binding, ...], constants: Constants, lasting: bool = True
) -> Argument:
    """The argument for a parameter; ``lasting`` is whether tensors made of constants are kept for the next time.

    Raises:
        ValueError: what is bound does not suit the parameter.
    """
    several = parameter.form in SEVERAL
    if not several and len(bindings) != 1:
        raise ValueError(f"{len(bindings)} values are given where one is expected")
    form = SEVERAL.get(parameter.form, parameter.form)
    return Argument(name, tuple(constants.source(binding, form, lasting) for binding in bindings), several)


def suits(form: Form, declared: ValueType) -> bool:
    """Whether a computed value of that type can be passed in ``form``, a parameter's or one of its elements'."""
    return isinstance(declared, DECLARED.get(form, (TensorType,)))


def _known(constant: Constant, form: Form) -> Any:
    if form in AS_TENSOR:
        return tensor_of(constant)
    if form in (Form.LIST, Form.STATE):
        raise ValueError(f"a constant is given where {form.value} is expected")
    if form is Form.SIZES:
        return None if isinstance(constant.value, str) else _converted(constant, Form.INT)
    return _converted(constant, form)


def _converted(constant: Constant, form: Form) -> Any:
    wanted = {Form.STR: str, Form.LABELS: tuple}.get(form, np.ndarray)
    value = constant.value
    if not isinstance(value, wanted):
        raise ValueError("text and numbers are confused")
    return from_array(form, value) if isinstance(value, np.ndarray) else value
