"""Layers with integer weights of a Core ML package, and the grids of those between ``dequantize`` and ``quantize``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvexport.validation.integers.layers import Grid, Layer, digest, placed

_LAYERS = ("conv", "linear")
_BY_AXIS = "constexpr_affine_dequantize"
_BY_PLACE = "constexpr_lut_to_dense"
_SCALED = (_BY_AXIS, _BY_PLACE, "constexpr_blockwise_shift_scale")
_SIGN = 128  # between the same whole numbers of eight bits with a sign and without
_CLIPS = ("relu", "clip", "relu6")
Weights = tuple[NDArray[Any], NDArray[np.float64]]  # integers, outputs first, and their scales or numbers


def layers(artifact: Path) -> Iterator[Layer]:
    from lvexport.validation.mil.blobs import Blobs
    from lvexport.validation.mil.package import open_package
    from lvexport.validation.mil.program import read_function
    from lvexport.validation.mil.protos import parse_model

    package = open_package(artifact)
    message = parse_model(package.specification)
    block = read_function(message.mlProgram, "main", Blobs(package)).block
    yield from _Block(block).layers()


class _Block:
    def __init__(self, block: Any) -> None:
        self.block = block
        self.producers = {output.name: op for op in block.operations for output in op.outputs}
        self.users: dict[str, list[Any]] = {}
        for op in block.operations:
            for name in op.references():
                self.users.setdefault(name, []).append(op)

    def layers(self) -> Iterator[Layer]:
        for op in self.block.operations:
            scaled = self._producer(op, "weight") if op.type in _LAYERS else None
            if scaled is None or scaled.type not in _SCALED:
                continue
            data, scales = self._weights(scaled)
            yield Layer(op.label, digest(data, 0), scales, self._before(op), self._behind(op))

    def _weights(self, scaled: Any) -> Weights:
        if scaled.type == _BY_PLACE:
            return self._by_place(scaled)
        return self._by_axis(scaled) if scaled.type == _BY_AXIS else self._in_blocks(scaled)

    def _by_place(self, scaled: Any) -> Weights:
        """Places among the numbers of a palette that are there; up to iOS 17 they are packed into bytes."""
        from lvexport.validation.mil.packing import unpack

        palette, places = self._value(scaled, "lut"), self._value(scaled, "indices")
        if "shape" in scaled.inputs:
            shape = tuple(map(int, self._value(scaled, "shape")))
            places = unpack(places, math.prod(shape), palette.size.bit_length() - 1).reshape(shape)
        data, numbers = placed(palette.reshape(-1)[places])
        return data, numbers if palette.size == palette.shape[max(-2, -palette.ndim)] else numbers * np.nan

    def _by_axis(self, scaled: Any) -> Weights:
        data = self._value(scaled, "quantized_data")
        axis = int(self._value(scaled, "axis"))
        scales = np.atleast_1d(self._value(scaled, "scale")).astype(np.float64)
        if len(scales) == 1:
            scales = np.repeat(scales, data.shape[0])
        if axis != 0 or np.any(self._value(scaled, "zero_point")):
            scales = scales * np.nan
        return data, scales

    def _in_blocks(self, scaled: Any) -> Weights:
        data, scales = self._value(scaled, "data"), self._value(scaled, "scale").astype(np.float64)
        if len(scales) != len(data) or ("offset" in scaled.inputs and np.any(self._value(scaled, "offset"))):
            scales = scales * np.nan
        return data, scales.reshape(-1)

    def _before(self, op: Any) -> Grid | None:
        producer = self._producer(op, "x")
        return self._grid(producer) if producer is not None and producer.type == "dequantize" else None

    def _behind(self, op: Any) -> Grid | None:
        users = self.users.get(op.outputs[0].name, [])
        if len(users) == 1 and users[0].type in _CLIPS:
            users = self.users.get(users[0].outputs[0].name, [])
        rounding = bool(users) and all(user.type == "quantize" for user in users)
        return self._grid(users[0]) if rounding else None

    def _grid(self, op: Any) -> Grid:
        zero_point = self._value(op, "zero_point") if "zero_point" in op.inputs else np.zeros(1)
        found = int(np.reshape(zero_point, -1)[0]) - (_SIGN if self._unsigned(op) else 0)
        return float(np.reshape(self._value(op, "scale"), -1)[0]), found

    def _unsigned(self, op: Any) -> bool:
        """Whether the whole numbers are counted from 0 to 255."""
        if op.type == "quantize":
            return bool(op.outputs[0].type.dtype.name == "uint8")
        producer = self._producer(op, "input")
        return producer is not None and bool(producer.outputs[0].type.dtype.name == "uint8")

    def _producer(self, op: Any, parameter: str) -> Any:
        (binding,) = op.inputs.get(parameter, (None,))
        return self.producers.get(getattr(binding, "name", None))

    def _value(self, op: Any, parameter: str) -> NDArray[Any]:
        (binding,) = op.inputs[parameter]
        constant = self.block.constants[binding.name] if hasattr(binding, "name") else binding
        content = constant.content
        return np.asarray(content.read() if hasattr(content, "read") else content).reshape(constant.type.shape)
