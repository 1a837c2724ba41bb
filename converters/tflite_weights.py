"""Weights of a ``.tflite`` model as integers times scales, in the place of the rounded ones.

Of 4 bits, those in blocks are for FULLY_CONNECTED alone, so a convolution that looks at one place becomes one: in the
order of LiteRT's maps, where channels are last, it is the same layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils
from numpy.typing import NDArray

from lvexport.converters import tflite_edits as edits
from lvexport.converters.compression import SMALLEST, Quantized, recovered
from lvexport.converters.contract import Integers
from lvexport.converters.recipes import FLOATING

_BUILTIN = schema.BuiltinOperator
# Operators with weights → the axis of the outputs in these.
OUTPUTS = {_BUILTIN.CONV_2D: 0, _BUILTIN.FULLY_CONNECTED: 0, _BUILTIN.DEPTHWISE_CONV_2D: 3}
# The versions of layers with 4-bit weights for inputs in floating point, and of the operator below.
_FOUR_BITS = {_BUILTIN.CONV_2D: 7, _BUILTIN.FULLY_CONNECTED: 12}
_FOUR = 4
_PER_CHANNEL = 5  # the version of DEQUANTIZE from which on it takes a scale for each channel (register.cc)


@dataclass(frozen=True)
class Weight:
    """Integers (O, I, …) found for a tensor, which ``users`` take as their weight; they are operators of ``kind``.

    None are found where it was not rounded, or where half precision does not have the scales of blocks.
    """

    tensor: int
    users: tuple[Any, ...]
    kind: int
    numbers: int
    found: Quantized | None

    @property
    def axis(self) -> int:
        return OUTPUTS[self.kind]


def write_integers(single: Path, integers: Integers, dynamic: bool, out: Path) -> tuple[int, dict[int, int]]:
    """Write a model with its rounded weights as integers; how many these are, and how many numbers have how many bits.

    Layers that take them as they are compute in integers, and round their other input for each inference: ``dynamic``.
    Else the runtime dequantizes them. Names of tensors, but for inputs and outputs, are left out: they take a twentieth
    of a small model.
    """
    model = flatbuffer_utils.read_model(str(single))
    graph = model.subgraphs[0]
    weights = list(rounded(model, graph, integers))
    counts = Counter[int]()
    for weight in weights:
        bits = FLOATING if weight.found is None else weight.found.bits
        counts[bits] += weight.numbers
        if weight.found is None:
            continue
        if bits == _FOUR:
            store_four_bits(model, graph, weight)
            continue
        store(model, graph, weight)
        if not dynamic:
            dequantize(model, graph, weight)
    kept = {*graph.inputs, *graph.outputs}
    for i, tensor in enumerate(graph.tensors):
        tensor.name = tensor.name if i in kept else b""
    flatbuffer_utils.write_model(model, str(out))
    return sum(weight.found is not None for weight in weights), counts


def rounded(model: Any, graph: Any, integers: Integers) -> Iterator[Weight]:
    """The constants that layers take as weights and nothing else takes, with the integers that they stand for."""
    for tensor, kind, users in constants(model, graph):
        if graph.tensors[tensor].type == schema.TensorType.FLOAT32:
            value = numbers(model, graph, tensor, np.dtype(np.float32))
            found = recovered(torch.from_numpy(outputs_first(value, kind).copy()), integers)
            if found is not None and not is_kept(found):
                found = None
            if value.size > SMALLEST:
                yield Weight(tensor, users, kind, value.size, found)


def constants(model: Any, graph: Any) -> Iterator[tuple[int, int, tuple[Any, ...]]]:
    """The tensors that layers of one kind take as weights and nothing else takes, with that kind and the layers."""
    users: dict[int, list[tuple[Any, int]]] = {}
    for operator in graph.operators:
        for place, tensor in enumerate(operator.inputs):
            users.setdefault(int(tensor), []).append((operator, place))
    for tensor, taken in users.items():
        codes = {edits.code(model, operator) for operator, _ in taken}
        data = model.buffers[graph.tensors[tensor].buffer].data if tensor >= 0 else None
        if data is None or len(codes) > 1 or not codes <= OUTPUTS.keys() or {place for _, place in taken} != {1}:
            continue
        yield tensor, codes.pop(), tuple(operator for operator, _ in taken)


def numbers(model: Any, graph: Any, tensor: int, kind: np.dtype[Any]) -> NDArray[Any]:
    """Those of a constant, of that kind."""
    found = graph.tensors[tensor]
    return np.frombuffer(bytes(model.buffers[found.buffer].data), kind).reshape(found.shape)


def narrow(model: Any) -> None:
    """Keep in 4 bits what they hold of the 8-bit weights that layers of integers take."""
    graph = model.subgraphs[0]
    for tensor, kind, users in list(constants(model, graph)):
        if kind not in _FOUR_BITS or graph.tensors[tensor].type != schema.TensorType.INT8:
            continue
        value = numbers(model, graph, tensor, np.dtype(np.int8))
        if value.size <= SMALLEST or np.abs(value).max() > Integers(_FOUR).largest:
            continue
        data = torch.from_numpy(outputs_first(value, kind).copy())
        scale = torch.tensor(graph.tensors[tensor].quantization.scale, dtype=torch.float32).expand(len(data))
        found = Quantized(data, scale.reshape(-1, *(1 for _ in data.shape[1:])), _FOUR)
        store_four_bits(model, graph, Weight(tensor, users, kind, value.size, found))


def is_kept(found: Quantized) -> bool:
    """Whether the format has the scales: those of blocks in half precision."""
    return found.scale.shape[1] == 1 or torch.equal(found.scale.half().float(), found.scale)


def outputs_first(value: NDArray[Any], kind: int) -> NDArray[Any]:
    """A weight in PyTorch's order, (O, I) or (O, I, height, width), of one in LiteRT's."""
    if kind == _BUILTIN.CONV_2D:
        return value.transpose(0, 3, 1, 2)
    return np.moveaxis(value, OUTPUTS[kind], 0)


def stored(value: NDArray[Any], kind: int) -> NDArray[Any]:
    """The other way round."""
    if kind == _BUILTIN.CONV_2D:
        return value.transpose(0, 2, 3, 1)
    return np.moveaxis(value, 0, OUTPUTS[kind])


def store(model: Any, graph: Any, weight: Weight) -> None:
    """Put integers and scales in the place of a weight's numbers."""
    assert weight.found is not None
    tensor = graph.tensors[weight.tensor]
    data = stored(weight.found.data.numpy(), weight.kind)
    model.buffers[tensor.buffer].data = np.frombuffer(data.tobytes(), np.uint8)
    tensor.type = schema.TensorType.INT8
    tensor.quantization = per_channel(weight)


def per_channel(weight: Weight) -> Any:
    """A scale for each output channel."""
    assert weight.found is not None
    return edits.scaled(weight.found.scale.numpy().reshape(-1), weight.axis)


def store_four_bits(model: Any, graph: Any, weight: Weight) -> None:
    """Put 4-bit integers in the place of a weight's numbers, two in a byte, the first in its lower half.

    With one scale for all of an output channel they are for either kind of layer, in blocks for FULLY_CONNECTED. A
    block of zeros has any scale.
    """
    assert weight.found is not None
    tensor, data = graph.tensors[weight.tensor], weight.found.data.numpy()
    scale = weight.found.scale.flatten(1)
    if weight.kind == _BUILTIN.CONV_2D and data.shape[2:] == (1, 1) and all(map(at_each_place, weight.users)):
        data = data.reshape(data.shape[:2])
        tensor.shape = np.array(data.shape, np.int32)
        for user in weight.users:
            connect(user)
        weight = replace(weight, kind=_BUILTIN.FULLY_CONNECTED)
    for user in weight.users:
        user.opcodeIndex = edits.versioned(model, weight.kind, _FOUR_BITS[weight.kind])
    flat = stored(data, weight.kind).reshape(-1)
    flat = np.append(flat, np.zeros(flat.size % 2, np.int8))
    model.buffers[tensor.buffer].data = ((flat[0::2] & 15) | ((flat[1::2] & 15) << 4)).astype(np.uint8)
    tensor.type = schema.TensorType.INT4
    if scale.shape[1] == 1:
        tensor.quantization = per_channel(weight)
    else:
        tensor.quantization = in_blocks(model, graph, torch.where(scale > 0, scale, 1.0), data.shape[1])


def at_each_place(operator: Any) -> bool:
    """Whether a convolution of one place looks at all of them."""
    options = operator.builtinOptions
    return bool(options.strideH == options.strideW == 1)


def connect(operator: Any) -> None:
    """Make a FULLY_CONNECTED of a convolution that looks at each place by itself."""
    options = schema.FullyConnectedOptionsT()
    options.fusedActivationFunction = operator.builtinOptions.fusedActivationFunction
    options.keepNumDims = options.asymmetricQuantizeInputs = True
    operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.FullyConnectedOptions, options


def in_blocks(model: Any, graph: Any, scale: torch.Tensor, channels: int) -> Any:
    """A scale (O, blocks) for each block of input channels, as a tensor of its own in half precision."""
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type = b"", np.array(scale.shape, np.int32), schema.TensorType.FLOAT16
    tensor.buffer = edits.constant(model, scale.half().numpy())
    graph.tensors.append(tensor)
    known, details = schema.QuantizationParametersT(), schema.BlockwiseQuantizationT()
    details.scales, details.zeroPoints = len(graph.tensors) - 1, -1
    details.blockSize = channels // scale.shape[1]
    known.detailsType, known.details = schema.QuantizationDetails.BlockwiseQuantization, details
    return known


def dequantize(model: Any, graph: Any, weight: Weight) -> None:
    """Let the users of a weight take what an operator makes of its integers."""
    made = schema.TensorT()
    made.name, made.shape = b"", graph.tensors[weight.tensor].shape
    made.type, made.buffer = schema.TensorType.FLOAT32, 0
    graph.tensors.append(made)
    number = len(graph.tensors) - 1
    reading = edits.operator(model, _BUILTIN.DEQUANTIZE, weight.tensor, number, _PER_CHANNEL)
    reading.builtinOptionsType = schema.BuiltinOptions.DequantizeOptions
    reading.builtinOptions = schema.DequantizeOptionsT()
    graph.operators.insert(0, reading)
    for user in weight.users:
        user.inputs[1] = number
