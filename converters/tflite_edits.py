"""What is edited in a ``.tflite`` model: kinds of operators, constants and scales."""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray


def code(model: Any, operator: Any) -> int:
    """What an operator is. Those of the first 127 kinds may be named in the older field alone (schema.fbs)."""
    return _kind(model.operatorCodes[operator.opcodeIndex])


def _kind(found: Any) -> int:
    return int(max(found.builtinCode, found.deprecatedBuiltinCode))


def forget(model: Any, kind: int) -> None:
    """Take a kind, of which no operator is left, out of the model's: whoever runs it registers what is there."""
    left = [place for place, found in enumerate(model.operatorCodes) if _kind(found) != kind]
    model.operatorCodes = [model.operatorCodes[place] for place in left]
    for graph in model.subgraphs:
        for operator in graph.operators:
            operator.opcodeIndex = left.index(operator.opcodeIndex)


def versioned(model: Any, kind: int, least: int) -> int:
    """The place of a kind of operator, of a version or a later one, among the model's; it is put there if missing."""
    for place, found in enumerate(model.operatorCodes):
        if found.builtinCode == kind and found.version >= least:
            return place
    made = schema.OperatorCodeT()
    made.builtinCode = made.deprecatedBuiltinCode = kind
    made.version = least
    model.operatorCodes.append(made)
    return len(model.operatorCodes) - 1


def operator(model: Any, kind: int, given: int, made: int, version: int = 1) -> Any:
    """A call of an operator, of a version or a later one, with one input and one output."""
    found = schema.OperatorT()
    found.opcodeIndex, found.inputs, found.outputs = versioned(model, kind, version), [given], [made]
    return found


def constant(model: Any, numbers: NDArray[Any]) -> int:
    """The place of a new buffer with these numbers."""
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(np.ascontiguousarray(numbers).tobytes(), np.uint8)
    model.buffers.append(buffer)
    return len(model.buffers) - 1


def scaled(scale: NDArray[np.float32], axis: int) -> Any:
    """Scales along an axis, without zero points."""
    found = schema.QuantizationParametersT()
    found.scale, found.zeroPoint = scale, np.zeros(len(scale), np.int64)
    found.quantizedDimension = axis
    return found
