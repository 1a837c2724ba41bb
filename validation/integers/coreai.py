"""Layers with integer weights of a Core AI asset, and the grids of those between ``dequantize`` and ``quantize``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvexport.validation.integers.layers import Grid, Layer, digest, halves_of_bytes, nibbles, placed

_MATMUL = "coreai.decomposable.broadcasting_batch_matmul"
_LAYERS = ("coreai.conv2d", _MATMUL)
_SCALED, _LOOKED_UP = "coreai.blockwise_shift_scale", "coreai.lut_to_dense"
_VIEWS = ("coreai.reshape", "coreai.transpose")
_PAD = "coreai.pad"
_ADD = "coreai.decomposable.broadcasting_add"
_CLIPS = (
    "coreai.relu",
    "coreai.clamp",
    "coreai.decomposable.broadcasting_minimum",
    "coreai.decomposable.broadcasting_maximum",
)
# How the text of a program gives its larger constants: by name, and behind the program an alignment, a number of four
# bytes, and the content.
_BY_NAME = re.compile(r"dense_resource<(\w+)>")
_CONTENT = re.compile(r'(\w+): "0x[0-9A-F]{8}([0-9A-F]*)"')
_TYPES = {"si8": np.int8, "ui8": np.uint8, "f16": np.float16, "f32": np.float32}
_NIBBLES: dict[str, Callable[[NDArray[np.uint8], int], NDArray[Any]]] = {
    "si4": nibbles,
    "ui4": lambda content, count: halves_of_bytes(content)[:count],
}
Weights = tuple[NDArray[Any], NDArray[np.float64]]  # integers, outputs first, and their scales or numbers


def layers(artifact: Path) -> Iterator[Layer]:
    from lvexport.validation.runtimes.coreai import open_asset

    asset = open_asset(artifact)  # whose operations are gone when it is
    program = asset.program
    yield from _Program(program._module._mlir_module).layers()


class _Program:
    def __init__(self, module: Any) -> None:
        text = module.operation.get_asm(enable_debug_info=False)
        self.contents = dict(_CONTENT.findall(text[text.rfind("dialect_resources") :]))
        self.operations = list(_inside(module.operation))

    def layers(self) -> Iterator[Layer]:
        for i, operation in enumerate(self.operations):
            scaled = _past(operation.operands[1], _VIEWS) if operation.name in _LAYERS else None
            if scaled is None or scaled.name not in (_SCALED, _LOOKED_UP):
                continue
            data, scales = self._weights(scaled)
            name = f"{operation.name.rpartition('.')[2]} {i}"
            yield Layer(name, digest(data, 0), scales, self._before(operation), self._behind(operation))

    def _weights(self, scaled: Any) -> Weights:
        data, factors = (self._numbers(operand) for operand in list(scaled.operands)[:2])
        if scaled.name == _LOOKED_UP:
            places, numbers = placed(factors.reshape(-1)[data])
            return places, numbers if factors.size == factors.shape[-2] else numbers * np.nan
        scales = factors.astype(np.float64)
        shifted = any(np.any(self._numbers(operand)) for operand in list(scaled.operands)[2:])
        if len(scales) != len(data) or shifted:
            scales = scales * np.nan
        return data, scales.reshape(-1)

    def _before(self, layer: Any) -> Grid | None:
        found = _past(layer.operands[0], (*_VIEWS, _PAD))
        return self._grid(found) if found is not None and found.name == "coreai.dequantize" else None

    def _behind(self, layer: Any) -> Grid | None:
        """The grid that all which take a layer's outputs round to, its bias added and clipped."""
        users = _users(layer)
        while len(users) == 1 and (users[0].name in (*_CLIPS, *_VIEWS) or self._adds_bias(users[0])):
            users = _users(users[0])
        rounding = bool(users) and all(user.name == "coreai.quantize" for user in users)
        return self._grid(users[0]) if rounding else None

    def _adds_bias(self, operation: Any) -> bool:
        return operation.name == _ADD and any(_is_constant(_maker(operand)) for operand in operation.operands)

    def _grid(self, rounding: Any) -> Grid:
        scale, point, added = (self._numbers(operand).reshape(-1)[0] for operand in list(rounding.operands)[1:4])
        return float("inf" if added else scale), int(point)  # with another addend it would be no grid of ours

    def _numbers(self, value: Any) -> NDArray[Any]:
        """Those of a constant."""
        from coreai._compiler.ir import DenseElementsAttr

        made = _past(value, ("coreai.reshape",))
        if not _is_constant(made):
            raise ValueError(f"{made.name if made else 'an input'} stands where a constant should")
        attribute = made.attributes["value"]
        shape, kind = tuple(attribute.type.shape), str(attribute.type.element_type)
        by_name = _BY_NAME.match(str(attribute))
        if by_name is None:
            # The library ends the process over arrays of integers of 4 bits; of those it gives the text.
            own = written(str(attribute)) if kind in _NIBBLES else np.array(DenseElementsAttr(attribute))
            return np.broadcast_to(own, shape) if own.size == 1 else own.reshape(shape)
        content, count = np.frombuffer(bytes.fromhex(self.contents[by_name[1]]), np.uint8), int(np.prod(shape))
        if kind in _NIBBLES:
            return _NIBBLES[kind](content, count).reshape(shape)
        return content.view(_TYPES[kind]).reshape(shape)


def written(text: str) -> NDArray[np.int8]:
    """The integers of a constant that stands in the text of a program, one for all or all of them."""
    numbers = text[text.index("<") + 1 : text.index(">")]
    if numbers.startswith('"0x'):
        return np.frombuffer(bytes.fromhex(numbers[3:-1]), np.int8)
    return np.array(json.loads(numbers), np.int8)


def _inside(operation: Any) -> Iterator[Any]:
    for region in operation.regions:
        for block in region.blocks:
            for one in block.operations:
                yield one.operation
                yield from _inside(one.operation)


def _maker(value: Any) -> Any:
    """The operation that gives a value; None for an input."""
    from coreai._compiler.ir import Operation

    owner = getattr(value.owner, "operation", value.owner)
    return owner if isinstance(owner, Operation) else None


def _past(value: Any, skipped: tuple[str, ...]) -> Any:
    """The operation that gives a value, those of some names aside."""
    made = _maker(value)
    while made is not None and made.name in skipped:
        made = _maker(made.operands[0])
    return made


def _is_constant(operation: Any) -> bool:
    return operation is not None and operation.name == "coreai.constant"


def _users(operation: Any) -> list[Any]:
    return [use.owner.operation for use in operation.results[0].uses]
