"""The order of work: which steps a wanted value needs, and when each value can be let go."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

from lvexport.validation.mil import ops, table
from lvexport.validation.mil.binding import Constants, Unpacked
from lvexport.validation.mil.conformity import conforms, described
from lvexport.validation.mil.errors import DamagedPackage, UnsupportedModel, UnsupportedOp
from lvexport.validation.mil.keeping import Room, bytes_held
from lvexport.validation.mil.nesting import Meter, Results, Value
from lvexport.validation.mil.numerics import Numerics
from lvexport.validation.mil.program import Block, Function, NamedType, Operation, Opset
from lvexport.validation.mil.step import FOR_CONSTANTS, Step, make_step, title
from lvexport.validation.mil.types import ValueType

CUSTOM = "custom_layer"  # as coremltools writes operations registered by a user (``translate_generic_op``)


@dataclass(frozen=True)
class Plan:
    """Steps that lead from a block's inputs to some of its values.

    Attributes:
        steps: in order.
        constants: those of the wanted values that are constants of the program; made when they are asked for.
        outputs: names of the wanted values.
    """

    steps: tuple[Step, ...]
    constants: Mapping[str, Callable[[], Value]]
    outputs: tuple[str, ...]

    def run(self, inputs: Mapping[str, Value], meter: Meter) -> dict[str, Value]:
        """The wanted values by name."""
        values = {**inputs, **{name: make() for name, make in self.constants.items()}}
        live: dict[str, int] = {}  # bytes of the values that were made here
        for step in self.steps:
            meter.expect(step.bytes, step.call.op)
            made = dict(zip(step.names, _watched(step, values, meter), strict=True))
            values.update(made)
            live.update({name: bytes_held(value) for name, value in made.items()})
            size = sum(live[name] for name in made)
            meter.expect(size, step.call.op)  # once more: it may not have been known before
            meter.hold(size)
            for name in step.released:
                del values[name]
                meter.hold(-live.pop(name, 0))
        meter.hold(-sum(live.values()))
        return {name: values[name] for name in self.outputs}

    def uses(self) -> set[str]:
        """Names of the computed values that the steps and the outputs need from elsewhere."""
        made = {name for step in self.steps for name in step.names}
        used = set(self.outputs).union(*(step.uses() for step in self.steps))
        return used - made - self.constants.keys()


def _watched(step: Step, values: Mapping[str, Value], meter: Meter) -> Results:
    if meter.watch is None:
        return step.run(values, meter)
    return meter.watch(step, values, partial(step.run, values, meter))


@dataclass(frozen=True)
class Prepared:
    """A block whose operations are all bound to the op table, and whose constants are all decoded.

    Attributes:
        steps: for all values, in the program's order.
        constants: of the block.
        declared: type of every value that it makes or sees, by name.
    """

    steps: tuple[Step, ...]
    constants: Constants
    declared: Mapping[str, ValueType]

    def plan(self, outputs: tuple[str, ...]) -> Plan:
        """The steps that ``outputs`` (names in ``declared``) need, those that change states, and no others."""
        needed = set(outputs)
        chosen: list[Step] = []
        for step in reversed(self.steps):
            if needed.isdisjoint(step.names) and not step.effect:
                continue
            # Seen from the end, the first use of a value is its last; a result that nobody uses goes at once.
            released = tuple((step.uses() | set(step.names)) - needed)
            needed |= step.uses()
            chosen.append(replace(step, released=released))
        constants = {name: partial(self.constants.value, name) for name in outputs if name in self.constants}
        return Plan(tuple(reversed(chosen)), constants, outputs)


@dataclass(frozen=True)
class Body:
    """A block inside an operation, ready to run.

    Attributes:
        op: the operation, for messages.
        inputs: of the block: the variables of a loop.
        plan: leads to the block's outputs.
        captured: names of the values around the block that it reads.
    """

    op: str
    inputs: tuple[NamedType, ...]
    plan: Plan
    captured: frozenset[str]

    @property
    def effect(self) -> bool:
        """Whether running it changes a state."""
        return any(step.effect for step in self.plan.steps)

    def run(self, outer: Mapping[str, Value], meter: Meter, *arguments: Value) -> tuple[Value, ...]:
        """The block's outputs, in order.

        Args:
            outer: the values around the block.
            meter: of the prediction.
            arguments: for the block's inputs.

        Raises:
            DamagedPackage: the arguments are not what the block takes.
        """
        meter.count()
        values = {name: outer[name] for name in self.captured}
        if len(arguments) != len(self.inputs):
            raise DamagedPackage(f"A block of {self.op} takes {len(self.inputs)} values and gets {len(arguments)}.")
        for declared, argument in zip(self.inputs, arguments, strict=True):
            if not conforms(argument, declared.type):
                raise DamagedPackage(
                    f"A block of {self.op} takes {declared.name!r} as {declared.type} and gets {described(argument)}."
                )
            values[declared.name] = argument
        results = self.plan.run(values, meter)
        return tuple(results[name] for name in self.plan.outputs)


def prepare(function: Function, numerics: Numerics, room: Room) -> Prepared:
    """Binds a function to the op table; its compressed constants are unpacked when they are used.

    Args:
        function: of the program.
        numerics: how half precision is computed.
        room: for its constants.

    Raises:
        UnsupportedOp: the table lacks some of its operations; all of them are named.
        DamagedPackage: the parameters of an operation are not what it takes.
    """
    _require_ops(function)
    declared = {value.name: value.type for value in function.inputs}
    return _prepare_block(function.block, function.opset, numerics, declared, Constants({}, room))


def _prepare_block(
    block: Block,
    opset: Opset,
    numerics: Numerics,
    outer: Mapping[str, ValueType],
    outer_constants: Constants,
) -> Prepared:
    constants = Constants(block.constants, outer_constants.room, outer_constants)
    declared = {**outer, **{value.name: value.type for value in block.inputs}}
    declared |= {name: constant.type for name, constant in block.constants.items()}
    steps: list[Step] = []
    for operation in block.operations:
        bodies = tuple(_bodies(operation, opset, numerics, declared, constants))
        step = make_step(operation, opset, declared, constants, numerics, bodies)
        declared |= {output.name: output.type for output in operation.outputs}
        if not operation.type.startswith(FOR_CONSTANTS):
            steps.append(step)
        elif step.uses():
            raise DamagedPackage(f"The operation {step.call.op} is for constants and reads computed values.")
        else:
            for output in operation.outputs:
                constants.room.expect(output.type, step.call.op)
            unpacked = Unpacked(partial(step.run, {}, Meter()), constants.room)
            constants.unpacked.update({name: partial(unpacked.get, place) for place, name in enumerate(step.names)})
    return Prepared(tuple(steps), constants, declared)


def _bodies(
    operation: Operation,
    opset: Opset,
    numerics: Numerics,
    declared: Mapping[str, ValueType],
    constants: Constants,
) -> Iterator[Body]:
    for block in operation.blocks:
        prepared = _prepare_block(block, opset, numerics, declared, constants)
        plan = prepared.plan(block.outputs)
        captured = plan.uses() - {value.name for value in block.inputs}
        yield Body(title(operation), block.inputs, plan, frozenset(captured))


def _require_ops(function: Function) -> None:
    assert ops  # importing it has filled the table
    counts = function.block.op_types()
    if CUSTOM in counts:
        raise UnsupportedModel(
            f"The program has {counts[CUSTOM]} custom layers. What these compute is code in an app and not in the "
            "package, so the model cannot be run. Convert it with operations of MIL in their place."
        )
    missing = {name: count for name, count in counts.items() if table.find(name, function.opset) is None}
    if missing:
        raise UnsupportedOp(missing, function.opset.name)
