"""Arguments of an operation: constants brought into their form once, and computed values fetched at each call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from lvexport.validation.mil.arguments import Form, Parameter, from_array
from lvexport.validation.mil.numerics import to_tensor
from lvexport.validation.mil.program import Binding
from lvexport.validation.mil.types import TensorType
from lvexport.validation.mil.values import Constant

Value: TypeAlias = Any  # a tensor; a classifier also makes a label and a dictionary

TEXT = (Form.STR, Form.LABELS)


@dataclass(frozen=True)
class Known:
    """A constant, already in the form of its parameter."""

    value: Any

    def get(self, values: Mapping[str, Value]) -> Any:
        return self.value


@dataclass(frozen=True)
class Computed:
    """A value that another operation makes, or an input, and the form in which it is wanted."""

    name: str
    form: Form

    def get(self, values: Mapping[str, Value]) -> Any:
        value = values[self.name]
        return value if self.form is Form.TENSOR else from_array(self.form, value.numpy())


@dataclass(frozen=True)
class Argument:
    """One parameter and where its value comes from; a parameter that takes a tuple has several sources."""

    name: str
    sources: tuple[Known | Computed, ...]
    several: bool

    def get(self, values: Mapping[str, Value]) -> Any:
        """The argument, given the values computed so far."""
        if self.several:
            return tuple(source.get(values) for source in self.sources)
        return self.sources[0].get(values)

    def uses(self) -> list[str]:
        """Names of the computed values that it needs."""
        return [source.name for source in self.sources if isinstance(source, Computed)]


@dataclass(frozen=True)
class Constants:
    """The constants of a block, and the tensors made of them: one, however many operations share it.

    Attributes:
        stored: as the program holds them.
        unpacked: results of compressed constants.
        tensors: those of ``stored`` that were asked for as tensors.
    """

    stored: Mapping[str, Constant]
    unpacked: dict[str, Value] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self.stored or name in self.unpacked

    def value(self, name: str) -> Value:
        """The constant as an operation's result would be: a tensor, or what ``Constant`` holds of text."""
        if name in self.unpacked:
            return self.unpacked[name]
        if not isinstance(self.stored[name].value, np.ndarray):
            return self.stored[name].value
        if name not in self.tensors:
            self.tensors[name] = _tensor(self.stored[name])
        return self.tensors[name]

    def source(self, binding: Binding, form: Form) -> Known | Computed:
        """Where an argument of that form comes from.

        Raises:
            ValueError: the constant cannot take that form.
        """
        if isinstance(binding, Constant):
            return Known(_tensor(binding) if form is Form.TENSOR else _converted(binding, form))
        if binding.name not in self:
            if form in TEXT:
                raise ValueError("text is computed where a constant is expected")
            return Computed(binding.name, form)
        if form is Form.TENSOR:
            value = self.value(binding.name)
            if not isinstance(value, Tensor):
                raise ValueError("text is given where a tensor is expected")
            return Known(value)
        if binding.name in self.unpacked:
            return Known(from_array(form, self.unpacked[binding.name].numpy()))
        return Known(_converted(self.stored[binding.name], form))


def bind(name: str, parameter: Parameter, bindings: tuple[Binding, ...], constants: Constants) -> Argument:
    """The argument for a parameter.

    Raises:
        ValueError: what is bound does not suit the parameter.
    """
    several = parameter.form is Form.TENSORS
    if not several and len(bindings) != 1:
        raise ValueError(f"{len(bindings)} values are given where one is expected")
    form = Form.TENSOR if several else parameter.form
    return Argument(name, tuple(constants.source(binding, form) for binding in bindings), several)


def _converted(constant: Constant, form: Form) -> Any:
    wanted = {Form.STR: str, Form.LABELS: tuple}.get(form, np.ndarray)
    if not isinstance(constant.value, wanted):
        raise ValueError("text and numbers are confused")
    return from_array(form, constant.value) if isinstance(constant.value, np.ndarray) else constant.value


def _tensor(constant: Constant) -> Tensor:
    if not isinstance(constant.type, TensorType) or not isinstance(constant.value, np.ndarray):
        raise ValueError("text is given where a tensor is expected")
    return to_tensor(constant.value, constant.type.dtype)
