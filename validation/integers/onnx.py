"""Integer layers of an ONNX model: between DequantizeLinear and QuantizeLinear, or of integer weights alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lvexport.validation.contract import Array
from lvexport.validation.integers.layers import Grid, Layer, digest

_LAYERS = ("Conv", "Gemm", "MatMul")
_CLIPS = ("Relu", "Clip")
# Integers, scales, and the axis of the outputs.
_Weight = tuple[Array, Array, int]


def layers(artifact: Path) -> Iterator[Layer]:
    import onnx

    graph = _Graph(onnx.load(str(artifact)).graph)
    for node in graph.nodes:
        weight = graph.weight(node) if node.op_type in _LAYERS else None
        if weight is None:
            continue
        data, scales, outputs = weight
        ends = np.cumsum(graph.pieces(node))[:-1]
        found = np.asarray(scales, np.float64).reshape(data.shape[outputs], -1)
        for part, its in zip(np.split(data, ends, outputs), np.split(found, ends), strict=True):
            yield Layer(node.name, digest(part, outputs), its.reshape(-1), graph.before(node), graph.behind(node))


def signed(integers: Array) -> Array:
    """8-bit integers counted from -128 on, where they are counted from 0."""
    if integers.dtype != np.uint8:
        return integers
    return np.asarray(integers.astype(np.int16) + np.iinfo(np.int8).min).astype(np.int8)


class _Graph:
    def __init__(self, graph: Any) -> None:
        from onnx import numpy_helper

        self.nodes = list(graph.node)
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self.producers = {name: node for node in self.nodes for name in node.output}
        self.users: dict[str, list[Any]] = {}
        for node in self.nodes:
            for name in node.input:
                self.users.setdefault(name, []).append(node)

    def transposed(self, node: Any) -> bool:
        return any(a.name == "transB" and a.i for a in node.attribute)

    def weight(self, node: Any) -> _Weight | None:
        """Integers and scales of a layer's weight, and the axis of its outputs; None where it has no integers."""
        producer = self.producers.get(node.input[1])
        columns = node.op_type == "MatMul" or (node.op_type == "Gemm" and not self.transposed(node))
        if producer is None:
            return None
        read = self.dequantized if producer.op_type == "DequantizeLinear" else self.spelled
        return read(producer, columns)

    def dequantized(self, producer: Any, columns: bool) -> _Weight | None:
        if producer.input[0] not in self.constants:
            return None
        data, scales = signed(self.constants[producer.input[0]]), self.constants[producer.input[1]]
        axis = next((a.i for a in producer.attribute if a.name == "axis"), 1)
        outputs = data.ndim - 1 if columns else 0
        if scales.shape != (data.shape[outputs],) or axis != outputs:
            scales = np.full(data.shape[outputs], np.nan)  # a scale for something else than each output
        if len(producer.input) > 2 and signed(self.constants[producer.input[2]]).any():
            scales = scales * np.nan
        return data, scales, outputs

    def spelled(self, producer: Any, columns: bool) -> _Weight | None:
        """Integers that are cast and multiplied with scales, those of blocks along a dimension of their own."""
        scaled = self.producers.get(producer.input[0]) if producer.op_type == "Reshape" else producer
        wide = None if scaled is None or scaled.op_type != "Mul" else self.producers.get(scaled.input[0])
        if scaled is None or wide is None or wide.op_type != "Cast" or wide.input[0] not in self.constants:
            return None
        data, scales = self.constants[wide.input[0]], self.constants[scaled.input[1]]
        outputs = data.ndim - 1 if columns else 0
        if scales.ndim != data.ndim or scales.shape[outputs] != data.shape[outputs]:
            scales = np.full(data.shape[outputs], np.nan)  # a scale for something else than each output
            return data.astype(np.int8), scales, outputs
        return data.astype(np.int8), np.moveaxis(scales, outputs, 0).reshape(-1), outputs

    def pieces(self, node: Any) -> list[int]:
        """How many outputs each of the layers has that a node computes: onnxsim joins those that take the same."""
        users = self.users.get(node.output[0], [])
        if len(users) == 1 and users[0].op_type == "Split" and len(users[0].input) > 1:
            return [int(size) for size in self.constants[users[0].input[1]]]
        return []

    def before(self, node: Any) -> Grid | None:
        producer = self.producers.get(node.input[0])
        return self._grid(producer) if producer is not None and producer.op_type == "DequantizeLinear" else None

    def behind(self, node: Any) -> Grid | None:
        users = self.users.get(node.output[0], [])
        if len(users) == 1 and users[0].op_type in _CLIPS:
            users = self.users.get(users[0].output[0], [])
        rounding = bool(users) and all(user.op_type == "QuantizeLinear" for user in users)
        return self._grid(users[0]) if rounding else None

    def _grid(self, node: Any) -> Grid:
        scale = self.constants[node.input[1]]
        zero_point: Array = signed(self.constants[node.input[2]]) if len(node.input) > 2 else np.zeros(1)
        return float(scale.reshape(-1)[0]), int(zero_point.reshape(-1)[0])
