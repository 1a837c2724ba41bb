"""One operation, bound to its function and its constants."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lvexport.validation.mil import table, types
from lvexport.validation.mil.arguments import NOT_ARGUMENTS, Form
from lvexport.validation.mil.binding import Argument, Computed, Constants, bind, suits
from lvexport.validation.mil.call import Call
from lvexport.validation.mil.conformity import Plain, conforms, described, form_of
from lvexport.validation.mil.errors import DamagedPackage, FailedOp, MilError
from lvexport.validation.mil.keeping import bytes_of
from lvexport.validation.mil.nesting import Meter, Value
from lvexport.validation.mil.numerics import CARRIERS, Numerics, is_half, round_to_half
from lvexport.validation.mil.program import Binding, Operation, Opset, Reference
from lvexport.validation.mil.types import LARGEST_VALUE, TensorType, ValueType

if TYPE_CHECKING:
    from lvexport.validation.mil.plan import Body

FOR_CONSTANTS = "constexpr_"  # how the names of operations begin that unpack compressed constants
BLOCKS = 2  # of every operation that has some: two branches, or the condition and the body of a loop


@dataclass(frozen=True)
class Step:
    """One operation, ready to run.

    Attributes:
        type: of the operation.
        call: the operation as its function sees it.
        function: from the op table.
        fixed: the arguments that are known when the program is read.
        wired: the other ones: computed values, and constants that are unpacked at their first use.
        names: of the results.
        bits: of the elements of each argument, as the program declares them, one for each of its values.
        rounded: for each result, whether it is to be rounded to half precision.
        plain: the form of each result, where it has one.
        bodies: the operation's blocks.
        effect: it changes a state, so that it runs even if nobody uses its results.
        released: names of the values that no later step needs.
        bytes: of the results as they are held, those of unknown size left out.
    """

    type: str
    call: Call
    function: Callable[..., Any]
    fixed: Mapping[str, Any]
    wired: tuple[Argument, ...]
    names: tuple[str, ...]
    bits: Mapping[str, tuple[int, ...]]
    rounded: tuple[bool, ...]
    plain: tuple[Plain | None, ...]
    bodies: tuple[Body, ...] = ()
    effect: bool = False
    released: tuple[str, ...] = ()
    bytes: int = 0

    def uses(self) -> set[str]:
        """Names of the computed values that it needs, those that its blocks see included."""
        wired = {name for argument in self.wired for name in argument.uses()}
        return wired.union(*(body.captured for body in self.bodies))

    def run(self, values: Mapping[str, Value], meter: Meter) -> tuple[Value, ...]:
        """The results, in order, each checked against its declared type.

        Args:
            values: those computed so far, by name.
            meter: of the prediction.

        Raises:
            FailedOp: the operation cannot be computed from these values.
            DamagedPackage: a result is not of its declared type.
        """
        try:
            arguments = {argument.name: argument.get(values) for argument in self.wired}
            if self.bodies:
                arguments["blocks"] = tuple(partial(body.run, values, meter) for body in self.bodies)
            results = self.function(**self.fixed, **arguments)
        except MilError:
            raise
        except Exception as error:  # torch raises many things, and all of them mean that there is no result
            reason = str(error).partition("\n")[0].rstrip(".")
            raise FailedOp(f"The operation {self.call.op} cannot be computed: {reason}.") from error
        if not isinstance(results, tuple):
            results = (results,)
        if len(results) != len(self.names):
            raise DamagedPackage(
                f"The program declares {len(self.names)} results of {self.call.op}, which makes {len(results)}."
            )
        return tuple(map(self._settled, results, self.call.outputs, self.rounded, self.plain))

    def _settled(self, value: Value, declared: ValueType, rounded: bool, plain: Plain | None) -> Value:
        if plain is not None and isinstance(value, Tensor) and (value.dtype, value.shape) == plain:
            return round_to_half(value) if rounded else value
        if not conforms(value, declared):
            raise self._mistyped(described(value), declared)
        if not isinstance(value, Tensor) or not isinstance(declared, TensorType):
            return value
        return round_to_half(value) if rounded else value.to(CARRIERS[declared.dtype])

    def _mistyped(self, made: str, declared: ValueType) -> DamagedPackage:
        return DamagedPackage(f"The program declares {declared} as a result of {self.call.op}, which makes {made}.")


def make_step(
    operation: Operation,
    opset: Opset,
    declared: Mapping[str, ValueType],
    constants: Constants,
    numerics: Numerics,
    bodies: tuple[Body, ...] = (),
) -> Step:
    """Binds an operation that the op table has.

    Args:
        operation: the operation.
        opset: that of its function.
        declared: types of the values that it may use.
        constants: those of its block.
        numerics: how half precision is computed; constants are unpacked as the package has them in any case.
        bodies: its blocks, bound.

    Raises:
        DamagedPackage: it has parameters that it does not take, lacks one that it needs, or is of absurd size.
    """
    entry = table.find(operation.type, opset)
    assert entry is not None, operation.type
    numerics = Numerics.ROUNDED if operation.type.startswith(FOR_CONSTANTS) else numerics
    outputs = tuple(output.type for output in operation.outputs)
    call = Call(title(operation), opset, outputs, numerics.sums(outputs))
    _require_blocks(operation, entry, call.op)
    arguments = _arguments(operation, entry, call.op, constants)
    _require_declared(arguments, declared, call.op)
    fixed = {argument.name: argument.get({}) for argument in arguments if argument.fixed}
    fixed |= {name: call for name, parameter in entry.parameters.items() if parameter.form is Form.CALL}
    rounds = numerics.rounds and not (entry.exact and not _reads_wider_floats(operation, declared))
    rounded = tuple(is_half(output) and rounds for output in call.outputs)
    _require_plausible_size(call)
    wired = tuple(argument for argument in arguments if not argument.fixed)
    names = tuple(output.name for output in operation.outputs)
    effect = entry.effect or any(body.effect for body in bodies)
    bits = {name: tuple(_bits(b, declared) for b in bindings) for name, bindings in operation.inputs.items()}
    forms = tuple(map(form_of, outputs))
    step = Step(operation.type, call, entry.function, fixed, wired, names, bits, rounded, forms, bodies, effect)
    return replace(step, bytes=sum(bytes_of(output) or 0 for output in outputs))


def title(operation: Operation) -> str:
    """How messages call an operation: its type, and the first value that it makes."""
    made = operation.outputs[0].name if operation.outputs else operation.label
    return f"{operation.type} (which makes {made!r})"


def _arguments(operation: Operation, entry: table.Entry, op: str, constants: Constants) -> list[Argument]:
    own = {name: parameter for name, parameter in entry.parameters.items() if parameter.form not in NOT_ARGUMENTS}
    unknown = sorted(operation.inputs.keys() - own.keys())
    missing = sorted(name for name, parameter in own.items() if parameter.required and name not in operation.inputs)
    if unknown or missing:
        wrong = f"lacks {', '.join(missing)}" if missing else f"has {', '.join(unknown)}, which it does not take"
        raise DamagedPackage(f"The parameters of the operation {op} are wrong: it {wrong}.")
    # What is read only to be unpacked is not kept in memory beside what it is unpacked to.
    lasting = not operation.type.startswith(FOR_CONSTANTS)
    try:
        return [bind(name, own[name], bindings, constants, lasting) for name, bindings in operation.inputs.items()]
    except ValueError as error:
        raise DamagedPackage(f"The parameters of the operation {op} are wrong: {error}.") from error


def _require_blocks(operation: Operation, entry: table.Entry, op: str) -> None:
    taken = sum(parameter.form is Form.BLOCKS for parameter in entry.parameters.values())
    wanted = BLOCKS if taken else 0
    if len(operation.blocks) != wanted:
        raise DamagedPackage(f"The operation {op} has {len(operation.blocks)} blocks; it takes {wanted or 'none'}.")


def _require_declared(arguments: list[Argument], declared: Mapping[str, ValueType], op: str) -> None:
    for argument in arguments:
        for source in argument.sources:
            if isinstance(source, Computed) and not suits(source.form, declared[source.name]):
                raise DamagedPackage(
                    f"The operation {op} takes {source.form.value} as {argument.name}; the program gives it "
                    f"{source.name!r}, which is {declared[source.name]}."
                )


def _type_of(binding: Binding, declared: Mapping[str, ValueType]) -> ValueType:
    return declared[binding.name] if isinstance(binding, Reference) else binding.type


def _bits(binding: Binding, declared: Mapping[str, ValueType]) -> int:
    bound = _type_of(binding, declared)
    return bound.dtype.bits if isinstance(bound, TensorType) else 0


def _reads_wider_floats(operation: Operation, declared: Mapping[str, ValueType]) -> bool:
    for bindings in operation.inputs.values():
        for binding in bindings:
            bound = _type_of(binding, declared)
            if isinstance(bound, TensorType) and bound.dtype in (types.FLOAT32, types.FLOAT64):
                return True
    return False


def _require_plausible_size(call: Call) -> None:
    for declared in call.outputs:
        if isinstance(declared, TensorType) and (declared.elements() or 0) > LARGEST_VALUE:
            raise DamagedPackage(
                f"The program declares {declared} as a result of {call.op}; nothing on a phone is so large."
            )
