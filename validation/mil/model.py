"""A saved Core ML model that can be run."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from lvexport.validation.mil.arrays import input_array
from lvexport.validation.mil.blobs import Blobs
from lvexport.validation.mil.errors import BadInput, DamagedPackage, UnsupportedModel
from lvexport.validation.mil.features import Feature, read_inputs, read_outputs
from lvexport.validation.mil.images import image_tensor, picture
from lvexport.validation.mil.keeping import Room
from lvexport.validation.mil.nesting import MOST_ROUNDS, Meter, Value, Watch
from lvexport.validation.mil.numerics import Numerics, is_half, to_array, to_tensor
from lvexport.validation.mil.package import open_package
from lvexport.validation.mil.plan import Plan, Prepared, prepare
from lvexport.validation.mil.profile import Profile, profile
from lvexport.validation.mil.program import Block, Function, Operation, Reference, read_function
from lvexport.validation.mil.protos import parse_model
from lvexport.validation.mil.states import State, new_state, state_types
from lvexport.validation.mil.types import DictType, TensorType
from lvexport.validation.mil.values import Label

MAIN = "main"


class Model:
    """A model read from an ``.mlpackage``: its program is decoded, checked and bound, and runs on torch.

    Attributes:
        inputs: what ``predict`` takes.
        outputs: what ``predict`` returns.
        operations: of the program, in the order in which they run, constants left out. Their outputs are the names
            that ``predict`` takes as ``outputs``.
        labels: of a classifier, in the order of its probabilities; empty for other models.
        states: tensors that it keeps from one prediction to the next, by name.
        numerics: how it computes half precision.
        computes_in_half: whether the program has half-precision values, so that its numerics matter.
    """

    def __init__(
        self,
        function: Function,
        inputs: tuple[Feature, ...],
        outputs: tuple[Feature, ...],
        numerics: Numerics,
        room: Room,
        most_rounds: int = MOST_ROUNDS,
        most_bytes: int | None = None,
    ) -> None:
        self.numerics = numerics
        self.inputs = inputs
        self.outputs = outputs
        self.states: Mapping[str, TensorType] = state_types(function.inputs)
        self.operations: tuple[Operation, ...] = function.block.operations
        self.labels: tuple[Label, ...] = _class_labels(function.block)
        declared = (*(value.type for value in function.inputs), *function.block.types())
        self.computes_in_half: bool = any(map(is_half, declared))
        self._prepared: Prepared = prepare(function, numerics, room)
        self._plans: dict[tuple[str, ...], Plan] = {}
        self._most_rounds = most_rounds
        self._most_bytes = most_bytes

    @classmethod
    def load(
        cls,
        path: str | Path,
        function_name: str | None = None,
        numerics: Numerics = Numerics.ROUNDED,
        most_rounds: int = MOST_ROUNDS,
        most_bytes: int | None = None,
    ) -> Model:
        """Reads one function of the package at ``path``.

        Args:
            path: of the ``.mlpackage`` folder.
            function_name: of several functions, which one; the one that the package calls its default if None.
            numerics: how half precision is to be computed.
            most_rounds: after how many rounds of its loops a prediction is given up.
            most_bytes: of live values at which it is; the machine's memory if None.

        Raises:
            DamagedPackage: what is there is not a sound package.
            UnsupportedModel: it holds something that the interpreter does not take: an older kind of model, a
                pipeline, custom layers, or operations that the table lacks (``UnsupportedOp``).
            BadInput: it has no function of that name.
            MilError: coremltools, whose message definitions are needed, is not installed.
        """
        package = open_package(path)
        message = parse_model(package.specification)
        _require_program(message, path)
        name, description = _described_function(message.description, function_name)
        function = read_function(message.mlProgram, name, Blobs(package))
        inputs = read_inputs(description, function)
        outputs = read_outputs(description, function)
        with torch.inference_mode():
            return cls(function, inputs, outputs, numerics, Room(package.size()), most_rounds, most_bytes)

    def make_state(self) -> State:
        """A new state, of zeros, to pass to ``predict``; an empty one for a model without states."""
        return new_state(self.states)

    @overload
    def predict(
        self, data: Mapping[str, Any], state: State | None = None, outputs: Sequence[str] | None = None
    ) -> dict[str, Any]: ...

    @overload
    def predict(
        self, data: Sequence[Mapping[str, Any]], state: State | None = None, outputs: Sequence[str] | None = None
    ) -> list[dict[str, Any]]: ...

    def predict(
        self,
        data: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        state: State | None = None,
        outputs: Sequence[str] | None = None,
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Runs the model, with coremltools' calling convention.

        Args:
            data: input name → array (anything that NumPy takes, or a tensor) of the input's shape, number for an
                input of one element, or for an image input a PIL image or a uint8 array (height, width, 3) in RGB
                order. A list of such dictionaries is run one after the other.
            state: of a model that keeps states, made by ``make_state``; the prediction reads and changes it. As in
                coremltools, a list of inputs cannot have one.
            outputs: names of values of the program (outputs of its operations, inputs, constants) to return in
                the place of the model's outputs, as arrays.

        Returns:
            Output name → array, or PIL image for an image output; from a classifier also its label (str or int) and
            its probabilities (dictionary from label to float). A list of such dictionaries for a list. A number is
            an array of one element, as from Core ML; in the place of the outputs it is one of rank 0.

        Raises:
            BadInput: the data do not fit the inputs, a name in ``outputs`` is unknown, or a state is lacking.
            FailedOp: an operation cannot be computed from these data.
            DamagedPackage: an operation's result is not what the program declares.
        """
        plan = self._plan(outputs)
        finish = self._presented if outputs is None else dict
        if isinstance(data, Mapping):
            return finish(self._predict_one(data, plan, state))
        if state is not None:
            raise BadInput("A state can only be used for one prediction at a time, not with a list of inputs.")
        return [finish(self._predict_one(one, plan, None)) for one in data]

    def profile(self, data: Mapping[str, Any], state: State | None = None, predictions: int = 5) -> Profile:
        """Time and bytes of every operation of a prediction; ``print`` shows the slowest of them as a table.

        Args:
            data: as for ``predict``, one input.
            state: as for ``predict``; every prediction that is made changes it.
            predictions: how many are timed, after one that is not.

        Raises:
            MilError: as ``predict``.
        """
        return profile(lambda watch: self.watched(data, watch, state), predictions)

    def watched(self, data: Mapping[str, Any], watch: Watch, state: State | None = None) -> dict[str, Any]:
        """``predict`` on one input, while ``watch`` looks on."""
        return self._presented(self._predict_one(data, self._plan(None), state, watch))

    def _predict_one(
        self, data: Mapping[str, Any], plan: Plan, state: State | None, watch: Watch | None = None
    ) -> dict[str, Any]:
        cells = self._cells(state)
        with torch.inference_mode():
            values = plan.run({**self._tensors(data), **cells}, Meter(self._most_rounds, watch, self._most_bytes))
            return {name: self._returned(name, value) for name, value in values.items()}

    def _cells(self, state: State | None) -> Mapping[str, Value]:
        if state is None and self.states:
            raise BadInput(
                f"The model keeps the states {', '.join(sorted(self.states))}: make one with "
                "state = model.make_state(), and pass it as predict(data, state)."
            )
        cells = state.cells if state is not None else {}
        if state is not None and {name: cell.type for name, cell in cells.items()} != self.states:
            raise BadInput("The state was made by another model: make one with model.make_state().")
        return cells

    def _tensors(self, data: Mapping[str, Any]) -> dict[str, Tensor]:
        expected = {feature.name for feature in self.inputs}
        optional = {feature.name for feature in self.inputs if feature.default is not None}
        if not expected - optional <= data.keys() <= expected:
            raise BadInput(
                f"The model takes the inputs {', '.join(sorted(expected)) or '(none)'}; "
                f"given were {', '.join(sorted(map(str, data))) or '(none)'}."
            )
        return {feature.name: self._tensor(data, feature) for feature in self.inputs}

    def _tensor(self, data: Mapping[str, Any], feature: Feature) -> Tensor:
        declared = self._prepared.declared[feature.name]
        assert isinstance(declared, TensorType)  # read_inputs takes no other
        if feature.name not in data:
            array = input_array(np.full(feature.default_shape, feature.default), feature)
        elif feature.kind == "image":
            array = image_tensor(data[feature.name], feature)
        else:
            array = input_array(data[feature.name], feature)
        return to_tensor(array, declared.dtype)

    def _returned(self, name: str, value: Any) -> Any:
        declared = self._prepared.declared[name]
        if isinstance(value, Tensor) and isinstance(declared, TensorType):
            return to_array(value, self.numerics.shown(declared.dtype))
        return value

    def _presented(self, results: dict[str, Any]) -> dict[str, Any]:
        for feature in self.outputs:
            if feature.layout is not None:
                results[feature.name] = picture(results[feature.name], feature.layout)
            elif feature.kind == "array" and feature.shape == ():
                results[feature.name] = results[feature.name].reshape(1)  # Core ML has no arrays of rank 0
        return results

    def _plan(self, outputs: Sequence[str] | None) -> Plan:
        names = tuple(feature.name for feature in self.outputs) if outputs is None else tuple(outputs)
        for name in names:
            if not isinstance(self._prepared.declared.get(name), (TensorType, DictType)):
                near = difflib.get_close_matches(name, self._prepared.declared, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise BadInput(f"The program has no value named {name!r}.{hint}")
        if names not in self._plans:
            self._plans[names] = self._prepared.plan(names)
        return self._plans[names]


def _class_labels(block: Block) -> tuple[Label, ...]:
    for operation in block.operations:
        if operation.type == "classify":
            (binding,) = operation.inputs["classes"]
            constant = block.constants.get(binding.name) if isinstance(binding, Reference) else binding
            if constant is not None and isinstance(constant.value, tuple):
                return constant.value
    return ()


def _require_program(message: Any, path: str | Path) -> None:
    kind = message.WhichOneof("Type")
    if kind is None:
        raise DamagedPackage(f"The specification in {path} holds no model.")
    if kind != "mlProgram":
        raise UnsupportedModel(
            f"{path} holds a model of kind {kind!r}. Only ML programs are run: convert with convert_to='mlprogram'."
        )


def _described_function(description: Any, wanted: str | None) -> tuple[str, Any]:
    """Name and description of the function to run; a package of one function describes it as the model itself."""
    described = {function.name: function for function in description.functions} or {MAIN: description}
    default = description.defaultFunctionName or MAIN
    if wanted is None and default not in described:
        raise DamagedPackage(f"The model description names a default function that it lacks: {default!r}.")
    name = default if wanted is None else wanted
    if name not in described:
        raise BadInput(f"The package has no function {name!r}; it has {', '.join(sorted(described))}.")
    return name, described[name]
