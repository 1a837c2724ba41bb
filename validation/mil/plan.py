"""The order of work: which steps a wanted value needs, and when each value can be let go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from lvexport.validation.mil import ops, table
from lvexport.validation.mil.binding import Constants, Value
from lvexport.validation.mil.errors import DamagedPackage, UnsupportedOp
from lvexport.validation.mil.program import Function
from lvexport.validation.mil.step import Step, make_step, title
from lvexport.validation.mil.types import ValueType


@dataclass(frozen=True)
class Plan:
    """Steps that lead from a function's inputs to some of its values.

    Attributes:
        steps: in order.
        constants: those of the wanted values that are constants of the program.
        outputs: names of the wanted values.
    """

    steps: tuple[Step, ...]
    constants: Mapping[str, Value]
    outputs: tuple[str, ...]

    def run(self, inputs: Mapping[str, Value]) -> dict[str, Value]:
        """The wanted values by name."""
        values = {**inputs, **self.constants}
        for step in self.steps:
            values.update(zip(step.names, step.run(values), strict=True))
            for name in step.released:
                del values[name]
        return {name: values[name] for name in self.outputs}


@dataclass(frozen=True)
class Prepared:
    """A function whose operations are all bound to the op table, and whose constants are all decoded.

    Attributes:
        steps: for all values, in the program's order.
        constants: of the function's block.
        declared: type of every value, by name.
    """

    steps: tuple[Step, ...]
    constants: Constants
    declared: Mapping[str, ValueType]

    def plan(self, outputs: tuple[str, ...]) -> Plan:
        """The steps that ``outputs`` (names in ``declared``) need, and no others."""
        needed = set(outputs)
        chosen: list[Step] = []
        for step in reversed(self.steps):
            if needed.isdisjoint(step.names):
                continue
            # Seen from the end, the first use of a value is its last; a result that nobody uses goes at once.
            released = tuple((step.uses() | set(step.names)) - needed)
            needed |= step.uses()
            chosen.append(replace(step, released=released))
        constants = {name: self.constants.value(name) for name in outputs if name in self.constants}
        return Plan(tuple(reversed(chosen)), constants, outputs)


def prepare(function: Function) -> Prepared:
    """Binds a function to the op table and unpacks its compressed constants.

    Raises:
        UnsupportedOp: the table lacks some of its operations; all of them are named.
        DamagedPackage: the parameters of an operation are not what it takes.
    """
    _require_ops(function)
    constants = Constants(function.block.constants)
    declared = {value.name: value.type for value in function.inputs}
    declared |= {name: constant.type for name, constant in function.block.constants.items()}
    steps: list[Step] = []
    for operation in function.block.operations:
        step = make_step(operation, function.opset, declared, constants)
        declared |= {output.name: output.type for output in operation.outputs}
        if not operation.type.startswith("constexpr_"):
            steps.append(step)
        elif step.wired:
            raise DamagedPackage(f"The operation {step.call.op} is for constants and reads computed values.")
        else:
            constants.unpacked.update(zip(step.names, step.run({}), strict=True))
    return Prepared(tuple(steps), constants, declared)


def _require_ops(function: Function) -> None:
    assert ops  # importing it has filled the table
    counts = function.block.op_types()
    missing = {name: count for name, count in counts.items() if table.find(name, function.opset) is None}
    if missing:
        raise UnsupportedOp(missing, function.opset.name)
    for operation in function.block.operations:
        if operation.blocks:
            raise DamagedPackage(f"The operation {title(operation)} has blocks, which it does not take.")
