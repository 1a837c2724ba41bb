"""A MIL program as plain data: functions of blocks of operations.

A block is in static single assignment form: each value is named once and used after it is made. Blocks nest
(an operation may own some), and an inner block sees the values of the outer ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeAlias

from lvexport.validation.mil.blobs import Blobs
from lvexport.validation.mil.errors import DamagedPackage, UnsupportedModel
from lvexport.validation.mil.types import ValueType, read_type
from lvexport.validation.mil.values import Constant, read_constant

VERSION = 1  # of MIL, which coremltools writes into every program


class Opset(IntEnum):
    """Versions of MIL's operations, by the iOS release that brought each (``_OPSET`` in coremltools)."""

    IOS13 = 3
    IOS14 = 4
    IOS15 = 5
    IOS16 = 6
    IOS17 = 7
    IOS18 = 8
    IOS26 = 9

    @classmethod
    def parse(cls, name: str) -> Opset:
        """The opset that programs call ``name``, e.g. ``CoreML7`` for that of iOS 17."""
        for opset in cls:
            if name == f"CoreML{opset.value}":
                return opset
        raise UnsupportedModel(f"The program is written for the opset {name!r}, which this interpreter does not know.")


@dataclass(frozen=True)
class Reference:
    """Use of a value by its name."""

    name: str


Binding: TypeAlias = Reference | Constant


@dataclass(frozen=True)
class NamedType:
    """A value that something makes: an operation's output, or a block's input."""

    name: str
    type: ValueType


@dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes:
        type: its name in the op table, e.g. ``conv``.
        label: the name that it was given, which usually tells where in the original model it comes from.
        inputs: parameter → what is bound to it; more than one binding where the parameter takes a tuple.
        outputs: in order.
        blocks: of control flow.
    """

    type: str
    label: str
    inputs: Mapping[str, tuple[Binding, ...]]
    outputs: tuple[NamedType, ...]
    blocks: tuple[Block, ...]

    def references(self) -> Iterator[str]:
        """Names of the values that it reads, its blocks' not included."""
        for bindings in self.inputs.values():
            for binding in bindings:
                if isinstance(binding, Reference):
                    yield binding.name


@dataclass(frozen=True)
class Block:
    """Operations in the order in which they run; ``const`` operations are taken out of it into ``constants``."""

    inputs: tuple[NamedType, ...]
    constants: Mapping[str, Constant]
    operations: tuple[Operation, ...]
    outputs: tuple[str, ...]

    def types(self) -> Iterator[ValueType]:
        """Of every value that it takes, has as a constant, or makes, nested blocks included."""
        yield from (value.type for value in self.inputs)
        yield from (constant.type for constant in self.constants.values())
        for operation in self.operations:
            yield from (output.type for output in operation.outputs)
            for block in operation.blocks:
                yield from block.types()

    def op_types(self) -> Counter[str]:
        """How many operations of each type there are, nested blocks included."""
        counts = Counter(operation.type for operation in self.operations)
        for operation in self.operations:
            for block in operation.blocks:
                counts += block.op_types()
        return counts


@dataclass(frozen=True)
class Function:
    """A function of the program: its inputs and the block for the opset that it asks for."""

    inputs: tuple[NamedType, ...]
    opset: Opset
    block: Block


def read_function(program: Any, name: str, blobs: Blobs) -> Function:
    """Function ``name`` of a ``MILSpec.Program`` message.

    Raises:
        DamagedPackage: there is no such function, or it breaks the rules of a MIL program.
        UnsupportedModel: its opset or something in its types is unknown.
    """
    if program.version != VERSION:
        raise UnsupportedModel(f"The program is in version {program.version} of MIL; only version {VERSION} is known.")
    if name not in program.functions:
        raise DamagedPackage(f"The program has no function {name!r}.")
    message = program.functions[name]
    if message.opset not in message.block_specializations:
        raise DamagedPackage(f"The program's function {name!r} asks for opset {message.opset!r} but has no such block.")
    inputs = _named_types(message.inputs)
    block = _read_block(message.block_specializations[message.opset], {value.name for value in inputs}, blobs)
    return Function(inputs, Opset.parse(message.opset), block)


def _read_block(message: Any, outer: set[str], blobs: Blobs) -> Block:
    inputs = _named_types(message.inputs)
    visible = set(outer)
    _define(visible, (value.name for value in inputs))
    constants: dict[str, Constant] = {}
    operations: list[Operation] = []
    for operation in message.operations:
        if operation.type == "const":
            output, constant = _read_const(operation, blobs)
            _define(visible, [output])
            constants[output] = constant
        else:
            operations.append(_read_operation(operation, visible, blobs))
            _define(visible, (output.name for output in operations[-1].outputs))
    outputs = tuple(message.outputs)
    _require(visible, outputs, "returns")
    return Block(inputs, constants, tuple(operations), outputs)


def _read_const(message: Any, blobs: Blobs) -> tuple[str, Constant]:
    if len(message.outputs) != 1 or "val" not in message.attributes:
        raise DamagedPackage("The program has a constant without a name or without a value.")
    constant = read_constant(message.attributes["val"], blobs)
    output = message.outputs[0]
    if read_type(output.type) != constant.type:
        raise DamagedPackage(f"The program declares the constant {output.name!r} with another type than its value has.")
    return output.name, constant


def _read_operation(message: Any, visible: set[str], blobs: Blobs) -> Operation:
    # Opsets up to iOS 17 pass the parameters of constexpr operations as attributes, later ones as inputs.
    inputs: dict[str, tuple[Binding, ...]] = {
        name: (read_constant(value, blobs),) for name, value in message.attributes.items() if name != "name"
    }
    for name, argument in message.inputs.items():
        inputs[name] = tuple(_read_binding(binding, blobs) for binding in argument.arguments)
    label = message.attributes["name"].immediateValue.tensor.strings.values if "name" in message.attributes else ()
    operation = Operation(
        type=message.type,
        label=label[0] if label else "",
        inputs=inputs,
        outputs=_named_types(message.outputs),
        blocks=tuple(_read_block(block, visible, blobs) for block in message.blocks),
    )
    _require(visible, operation.references(), f"uses in {operation.type!r} (named {operation.label!r})")
    return operation


def _read_binding(message: Any, blobs: Blobs) -> Binding:
    kind = message.WhichOneof("binding")
    if kind == "name":
        return Reference(message.name)
    if kind == "value":
        return read_constant(message.value, blobs)
    raise DamagedPackage("The program has an argument that is neither a name nor a value.")


def _named_types(messages: Iterable[Any]) -> tuple[NamedType, ...]:
    return tuple(NamedType(message.name, read_type(message.type)) for message in messages)


def _define(visible: set[str], names: Iterable[str]) -> None:
    for name in names:
        if name in visible or not name:
            raise DamagedPackage(f"The program defines the value {name!r} a second time.")
        visible.add(name)


def _require(visible: set[str], names: Iterable[str], verb: str) -> None:
    for name in names:
        if name not in visible:
            raise DamagedPackage(f"The program {verb} the value {name!r} before anything made it.")
