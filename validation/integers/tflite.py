"""Layers with integer weights of a ``.tflite`` file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvexport.validation import flatbuffer
from lvexport.validation.integers.layers import Grid, Layer, digest, nibbles

# Operators with weights → the axis of the outputs in these.
_LAYERS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}
_READ = "DEQUANTIZE"


def layers(artifact: Path) -> Iterator[Layer]:
    model = flatbuffer.read(artifact)
    graph, names = model.subgraphs[0], flatbuffer.operators(model)
    read = {
        int(op.outputs[0]): int(op.inputs[0]) for op, name in zip(graph.operators, names, strict=True) if name == _READ
    }
    for operator, name in zip(graph.operators, names, strict=True):
        if name not in _LAYERS:
            continue
        weights = graph.tensors[read.get(int(operator.inputs[1]), int(operator.inputs[1]))]
        data = integers(model, weights)
        if data is None:
            continue
        given, output = (graph.tensors[int(i)] for i in (operator.inputs[0], operator.outputs[0]))
        axis, label = _LAYERS[name], (output.name or b"").decode() or name
        yield Layer(label, digest(data, axis), scales_of(model, weights, data, axis), grid(given), grid(output))


def integers(model: Any, tensor: Any) -> NDArray[np.int8] | None:
    """The whole numbers of a constant; None where it holds others, or is none."""
    from ai_edge_litert.schema_py_generated import TensorType

    content = model.buffers[tensor.buffer].data
    if content is None or tensor.quantization is None or tensor.type not in (TensorType.INT8, TensorType.INT4):
        return None
    raw = np.asarray(content, np.uint8)
    found = nibbles(raw, int(np.prod(tensor.shape))) if tensor.type == TensorType.INT4 else raw.view(np.int8)
    return found.reshape(tensor.shape)


def scales_of(model: Any, tensor: Any, data: NDArray[np.int8], axis: int) -> NDArray[np.float64]:
    """Of a weight: for each output, or for the blocks of one after the other. NaN where they are for something else.

    Weights are symmetric: with a zero point they would be other numbers.
    """
    known, outputs = tensor.quantization, data.shape[axis]
    if known.details is not None:
        scales = model.buffers[model.subgraphs[0].tensors[known.details.scales].buffer].data
        found = np.asarray(scales, np.uint8).view(np.float16).astype(np.float64)
        return found if known.details.zeroPoints < 0 else found * np.nan
    found = np.asarray(known.scale, np.float64)
    if np.any(known.zeroPoint) or (len(found) > 1 and known.quantizedDimension != axis):
        return np.full(outputs, np.nan)
    return np.repeat(found, outputs) if len(found) == 1 else found


def grid(tensor: Any) -> Grid | None:
    from ai_edge_litert.schema_py_generated import TensorType

    known = tensor.quantization
    if tensor.type not in (TensorType.INT8, TensorType.INT16) or known is None or known.scale is None:
        return None
    return float(known.scale[0]), int(known.zeroPoint[0])
