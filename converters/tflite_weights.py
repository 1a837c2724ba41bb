"""Weights of a ``.tflite`` model as integers times scales, in the place of the rounded ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from lvexport.converters.compression import Quantized, recovered
from lvexport.converters.contract import Integers

_BUILTIN = schema.BuiltinOperator
# Operators with weights → the axis of the outputs in these.
_OUTPUTS = {_BUILTIN.CONV_2D: 0, _BUILTIN.FULLY_CONNECTED: 0, _BUILTIN.DEPTHWISE_CONV_2D: 3}
_PER_CHANNEL = 5  # the version of DEQUANTIZE from which on it takes a scale for each channel (register.cc)


@dataclass(frozen=True)
class Weight:
    """Integers found for a tensor, which ``users`` take as their weight; its outputs are along ``axis``."""

    tensor: int
    users: tuple[Any, ...]
    axis: int
    found: Quantized


def write_integers(single: Path, integers: Integers, dynamic: bool, out: Path) -> int:
    """Write a model with its rounded weights as integers, a scale for each output; how many these are.

    Layers that take them as they are compute in integers, and round their other input for each inference: ``dynamic``.
    Else the runtime dequantizes them. Names of tensors, but for inputs and outputs, are left out: they take a twentieth
    of a small model.
    """
    model = flatbuffer_utils.read_model(str(single))
    graph = model.subgraphs[0]
    weights = list(rounded(model, graph, integers))
    for weight in weights:
        store(model, graph, weight)
        if not dynamic:
            dequantize(model, graph, weight)
    kept = {*graph.inputs, *graph.outputs}
    for i, tensor in enumerate(graph.tensors):
        tensor.name = tensor.name if i in kept else b""
    flatbuffer_utils.write_model(model, str(out))
    return len(weights)


def rounded(model: Any, graph: Any, integers: Integers) -> Iterator[Weight]:
    """The constants that layers take as weights and nothing else takes, where they are integers times scales."""
    users: dict[int, list[tuple[Any, int]]] = {}
    for operator in graph.operators:
        for place, tensor in enumerate(operator.inputs):
            users.setdefault(int(tensor), []).append((operator, place))
    for tensor, taken in users.items():
        codes = {code(model, operator) for operator, _ in taken}
        data = model.buffers[graph.tensors[tensor].buffer].data if tensor >= 0 else None
        if data is None or len(codes) > 1 or not codes <= _OUTPUTS.keys() or {place for _, place in taken} != {1}:
            continue
        if graph.tensors[tensor].type == schema.TensorType.FLOAT32:
            axis = _OUTPUTS[codes.pop()]
            value = np.frombuffer(bytes(data), np.float32).reshape(graph.tensors[tensor].shape)
            found = recovered(torch.from_numpy(np.moveaxis(value, axis, 0).copy()), integers)
            if found is not None:
                yield Weight(tensor, tuple(operator for operator, _ in taken), axis, found)


def code(model: Any, operator: Any) -> int:
    """What an operator is. Those of the first 127 kinds may be named in the older field alone (schema.fbs)."""
    found = model.operatorCodes[operator.opcodeIndex]
    return int(max(found.builtinCode, found.deprecatedBuiltinCode))


def store(model: Any, graph: Any, weight: Weight) -> None:
    """Put integers and scales in the place of a weight's numbers."""
    tensor = graph.tensors[weight.tensor]
    data = np.moveaxis(weight.found.data.numpy(), 0, weight.axis)
    model.buffers[tensor.buffer].data = np.frombuffer(data.tobytes(), np.uint8)
    tensor.type = schema.TensorType.INT8
    tensor.quantization = schema.QuantizationParametersT()
    tensor.quantization.scale = weight.found.scale.numpy().reshape(-1)
    tensor.quantization.zeroPoint = np.zeros(len(weight.found.scale), np.int64)
    tensor.quantization.quantizedDimension = weight.axis


def dequantize(model: Any, graph: Any, weight: Weight) -> None:
    """Let the users of a weight take what an operator makes of its integers."""
    made = schema.TensorT()
    made.name, made.shape = b"", graph.tensors[weight.tensor].shape
    made.type, made.buffer = schema.TensorType.FLOAT32, 0
    graph.tensors.append(made)
    operator = schema.OperatorT()
    operator.opcodeIndex = dequantizing(model)
    operator.inputs, operator.outputs = (
        np.array([weight.tensor], np.int32),
        np.array([len(graph.tensors) - 1], np.int32),
    )
    operator.builtinOptionsType = schema.BuiltinOptions.DequantizeOptions
    operator.builtinOptions = schema.DequantizeOptionsT()
    graph.operators.insert(0, operator)
    for user in weight.users:
        user.inputs[1] = len(graph.tensors) - 1


def dequantizing(model: Any) -> int:
    """The place of DEQUANTIZE among the model's kinds of operators; it is put there where it is missing."""
    for place, found in enumerate(model.operatorCodes):
        if found.builtinCode == _BUILTIN.DEQUANTIZE and found.version >= _PER_CHANNEL:
            return place
    made = schema.OperatorCodeT()
    made.builtinCode = made.deprecatedBuiltinCode = _BUILTIN.DEQUANTIZE
    made.version = _PER_CHANNEL
    model.operatorCodes.append(made)
    return len(model.operatorCodes) - 1
