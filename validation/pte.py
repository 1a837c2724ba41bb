"""An ExecuTorch program read without its runtime: what it takes, what it gives, and what it calls."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lvexport.converters.contract import TensorSpec
from lvexport.validation.contract import ArtifactError, CannotRun

IDENTIFIER = b"ET12"  # bytes 4 to 8 of every .pte file (schema/program.fbs, file_identifier)


@dataclass(frozen=True)
class Interface:
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class Program:
    """The first method of a program."""

    def __init__(self, artifact: Path, file: Any) -> None:
        self._artifact = artifact
        self._file = file
        self._program = file.program
        self._plan = self._program.execution_plan[0]

    @property
    def interface(self) -> Interface:
        """Inputs and outputs under the names that ExecuTorch's own targets have here."""
        plan = self._plan
        return Interface(
            tuple(spec(f"input_{i}", plan.values[value]) for i, value in enumerate(plan.inputs)),
            tuple(spec(f"output_{i}", plan.values[value]) for i, value in enumerate(plan.outputs)),
        )

    def only_delegate(self, backend: str) -> bytes:
        """The bytes of the delegate that the whole program is.

        Raises CannotRun where the program is anything but one call of that backend, on all inputs, for all outputs.
        """
        plan = self._plan
        calls = [instruction.instr_args for chain in plan.chains for instruction in chain.instructions]
        kinds = [type(call).__name__ for call in calls]
        if kinds != ["DelegateCall"] or plan.delegates[calls[0].delegate_index].id != backend:
            raise CannotRun(
                f"{self._artifact} is not one call of {backend} but {', '.join(kinds) or 'nothing'}. Parts outside the "
                "delegate would need ExecuTorch's runtime with that backend, which exists on Apple's systems only."
            )
        if list(calls[0].args) != [*plan.inputs, *plan.outputs]:
            raise CannotRun(f"{self._artifact} hands {backend} other values than its inputs and outputs.")
        processed = plan.delegates[calls[0].delegate_index].processed
        stored = self._program.backend_delegate_data
        if processed.index >= len(stored):
            raise ArtifactError(f"{self._artifact} does not hold the bytes of its delegate.")
        return bytes(stored[processed.index].data)

    def calls(self) -> dict[str, int]:
        """How often each operator and each delegate is called, by its name."""
        plan, found = self._plan, Counter[str]()
        for call in (i.instr_args for chain in plan.chains for i in chain.instructions):
            if hasattr(call, "delegate_index"):
                found[f"delegate {plan.delegates[call.delegate_index].id}"] += 1
            elif hasattr(call, "op_index"):
                found[plan.operators[call.op_index].name] += 1
        return dict(found)

    def delegates(self, backend: str) -> list[bytes]:
        """The bytes of all delegates of a backend."""
        stored = self._program.backend_delegate_data
        return [bytes(stored[d.processed.index].data) for d in self._plan.delegates if d.id == backend]

    def named_data(self) -> dict[str, bytes]:
        """Constants that delegates keep in the program by a name."""
        data = self._file.named_data
        return {} if data is None else {key: bytes(data.buffers[e.buffer_index]) for key, e in data.pte_data.items()}


def read(artifact: Path) -> Program:
    """Read a program. Raises ArtifactError where the file is not one."""
    from executorch.exir._serialize._program import deserialize_pte_binary

    content = artifact.read_bytes()
    if content[4:8] != IDENTIFIER:
        raise ArtifactError(f"{artifact} is not an ExecuTorch program: its identifier is missing.")
    try:
        return Program(artifact, deserialize_pte_binary(content))
    except Exception as error:  # the reader raises of every kind
        raise ArtifactError(f"{artifact} cannot be read as an ExecuTorch program: {error}") from error


def spec(name: str, value: Any) -> TensorSpec:
    tensor = value.val
    return TensorSpec(name, tuple(tensor.sizes), numpy_dtype(tensor.scalar_type.name))


def numpy_dtype(scalar_type: str) -> str:
    """numpy's name of a member of ExecuTorch's ScalarType (schema/scalar_type.fbs)."""
    names = {"BYTE": "uint8", "CHAR": "int8", "SHORT": "int16", "INT": "int32", "LONG": "int64"}
    floats = {"HALF": "float16", "FLOAT": "float32", "DOUBLE": "float64", "BOOL": "bool"}
    return (names | floats).get(scalar_type, scalar_type.lower())
