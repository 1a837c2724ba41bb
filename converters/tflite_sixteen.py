"""TFLite models whose layers take and give 16-bit integers, with weights of 8 bits. Importing this loads torch.

LiteRT's converter makes integers of every operation between two roundings, also of those for which there are no 16-bit
kernels, such as GELU, and writes 32-bit biases, which depthwise kernels refuse. So it is given the program without
roundings, and its layers, found again by their weights, are made layers of integers here. What the format asks for
(ai.google.dev/edge/litert/models/quantization_spec): 16-bit tensors without zero point; biases in steps of
input scale times weight scale, of 64 bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from lvexport.converters import tflite_edits as edits
from lvexport.converters.compression import Quantized, requantize
from lvexport.converters.contract import ConversionError, Integers
from lvexport.converters.derived import examples, rewritten
from lvexport.converters.quantization.grids import QUANTIZED, Grid
from lvexport.converters.quantization.sites import output
from lvexport.converters.rewrites import layers
from lvexport.converters.rewrites.graph import ATEN, call, calls, constant, is_call, keep, prune, replace
from lvexport.converters.rewrites.single_rows import spell_single_rows
from lvexport.converters.tflite_integers import shorten_names, write
from lvexport.converters.tflite_weights import OUTPUTS

_BUILTIN, _TYPE = schema.BuiltinOperator, schema.TensorType
_WEIGHTS = Integers(8)
_SAME = 1e-5  # of a scale, which single precision rounds
# The versions of operators that know 16-bit tensors (LiteRT, tflite/converter/tools/versioning/op_version.cc).
_VERSIONS = {
    _BUILTIN.CONV_2D: 4,
    _BUILTIN.DEPTHWISE_CONV_2D: 5,
    _BUILTIN.FULLY_CONNECTED: 7,
    _BUILTIN.QUANTIZE: 2,
    _BUILTIN.DEQUANTIZE: 3,
}
_SCALING = tuple(
    getattr(getattr(ATEN, name), kind) for name in ("add", "sub", "mul", "div") for kind in ("Tensor", "Scalar")
)


@dataclass(frozen=True)
class Layer:
    """Weights ``data`` (O, …) times ``scale`` (O,); the grids of what it is given and gives."""

    name: str
    data: NDArray[np.int8]
    scale: NDArray[np.float32]
    given: Grid
    output: Grid


def key(data: NDArray[np.int8]) -> bytes:
    """What tells weights (O, …) from others, in every layout: of each row the numbers in order of size."""
    return np.sort(data.reshape(len(data), -1), axis=1).tobytes()


def write_layers(program: ExportedProgram, out: Path) -> None:
    """Write a program with 16-bit roundings as a model that takes and gives single precision.

    Raises ConversionError where a layer is not found again in what the converter makes of the program.
    """
    import litert_torch

    module = rewritten(program, spell_single_rows)
    wanted = list(rounded(module))
    without_roundings(module)
    content = litert_torch.convert(module, examples(program)).model_content()
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    make_integer(model, wanted)
    shorten_names(model)
    write(model, out)


def is_wide(program: ExportedProgram) -> bool:
    """Whether roundings are to 16 bits."""
    quantize = QUANTIZED.quantize_per_tensor.default
    return any(node.args[-1] is torch.int16 for node in program.graph.find_nodes(op="call_function", target=quantize))


def rounded(module: GraphModule) -> Iterator[Layer]:
    """The layers between roundings, in the order of the program."""
    for node in calls(module, *layers.LAYERS):
        weight = node.args[1]
        if not is_call(weight, QUANTIZED.dequantize_per_channel.default):
            continue
        assert isinstance(weight, Node)
        data, scale = (constant(module, given) for given in weight.args[:2])
        assert data is not None
        assert scale is not None
        (behind, *_) = output(node).users
        yield Layer(node.name, data.numpy(), scale.float().numpy(), grid(node.args[0]), grid(behind))


def grid(node: Any) -> Grid:
    """The grid of a rounding."""
    scale, zero_point = node.args[1:3]
    return Grid(float(scale), int(zero_point), 16)


def without_roundings(module: GraphModule) -> None:
    """Take the roundings out of a program, in place, and leave the weights as the numbers that they were rounded to.

    Where a factor or an addend lies on the other side of a rounding, the limits of its grid stay, so that the converter
    does not make these part of the layer.
    """
    for node in calls(module, QUANTIZED.dequantize_per_channel.default):
        data, scale = constant(module, node.args[0]), constant(module, node.args[1])
        assert data is not None
        assert scale is not None
        replace(node, keep(module, node, f"{node.name}_numbers", data * layers.column(scale, data)))
    for node in calls(module, QUANTIZED.dequantize_per_tensor.default):
        integers = node.args[0]
        assert isinstance(integers, Node)
        replace(node, unrounded(module, node, integers))
    prune(module)


def unrounded(module: GraphModule, node: Node, integers: Node) -> Node:
    """What a rounding is given, limited where it has to be kept apart from what is behind it."""
    source = integers.args[0]
    assert isinstance(source, Node)
    if not (is_scaling(module, source) or any(is_scaling(module, user) for user in node.users)):
        return source
    known = grid(node)
    return call(node, ATEN.clamp.default, source, known.lowest * known.scale, known.highest * known.scale)


def is_scaling(module: GraphModule, node: Node) -> bool:
    """Whether an operation adds a constant or multiplies by one."""
    return is_call(node, *_SCALING) and any(
        not isinstance(given, Node) or constant(module, given) is not None for given in node.args[:2]
    )


def make_integer(model: Any, wanted: list[Layer]) -> None:
    """Make layers of a model compute in integers, with conversions before and behind them."""
    left: dict[bytes, list[Layer]] = {}
    for layer in wanted:
        left.setdefault(key(layer.data), []).append(layer)
    graph = model.subgraphs[0]
    writer = _Writer(model, graph)
    for found in graph.operators:
        weight = weights_of(model, graph, found)
        alike = [] if weight is None else left.get(key(weight.data.numpy()), [])
        if weight is None or not alike or not has_scales(weight, alike[0]):
            writer.operators.append(found)
        else:
            writer.write(found, alike.pop(0), weight.data.numpy())
    graph.operators = writer.finished()
    drop_unused(model, graph)
    lost = [layer.name for group in left.values() for layer in group]
    if lost:
        raise ConversionError(
            f"LiteRT's converter changed the weights of {', '.join(lost)}, so that they are not what was rounded. This "
            "is a bug of lvexport; please report it with the model."
        )


def has_scales(weight: Quantized, layer: Layer) -> bool:
    """Whether a weight has a layer's scales too: a factor that became part of it changes nothing else."""
    scale = weight.scale.reshape(-1).numpy()
    return bool(np.allclose(scale[scale > 0], layer.scale[scale > 0], rtol=_SAME, atol=0))


def weights_of(model: Any, graph: Any, found: Any) -> Quantized | None:
    """What a layer's weights (O, …) were rounded to; None where the operator is no layer that has any."""
    kind = edits.code(model, found)
    if kind not in OUTPUTS:
        return None
    tensor = graph.tensors[found.inputs[1]]
    data = model.buffers[tensor.buffer].data
    if data is None or tensor.type != _TYPE.FLOAT32:
        return None
    value = np.frombuffer(bytes(data), np.float32).reshape(tensor.shape)
    return requantize(torch.from_numpy(np.moveaxis(value, OUTPUTS[kind], 0).copy()), _WEIGHTS)


class _Writer:
    """A graph's operators, written anew with integers in place of some tensors."""

    def __init__(self, model: Any, graph: Any) -> None:
        self.model, self.graph = model, graph
        self.operators: list[Any] = []
        self.integers: dict[tuple[int, Grid], int] = {}  # tensor and grid → its integers

    def write(self, found: Any, layer: Layer, data: NDArray[np.int8]) -> None:
        """One layer in integers, and the conversion of what it gives."""
        kind = edits.code(self.model, found)
        found.inputs, found.outputs = list(found.inputs), list(found.outputs)
        found.inputs[1] = self._weights(found.inputs[1], OUTPUTS[kind], layer, data)
        if len(found.inputs) > 2 and found.inputs[2] >= 0:
            found.inputs[2] = self._bias(found.inputs[2], layer)
        found.inputs[0] = self._given(found.inputs[0], layer.given)
        floating, found.outputs[0] = found.outputs[0], self._tensor(found.outputs[0], layer.output)
        found.opcodeIndex = edits.versioned(self.model, kind, _VERSIONS[kind])
        self.operators.append(found)
        self.integers[floating, layer.output] = found.outputs[0]
        self._convert(_BUILTIN.DEQUANTIZE, found.outputs[0], floating)

    def finished(self) -> list[Any]:
        """All operators, but for conversions that nobody needs."""
        taken = {*self.graph.outputs} | {i for found in self.operators for i in found.inputs}
        back = _BUILTIN.DEQUANTIZE
        return [f for f in self.operators if edits.code(self.model, f) != back or f.outputs[0] in taken]

    def _given(self, floating: int, grid: Grid) -> int:
        """The integers of a tensor: those that a layer gave, or new ones."""
        if (floating, grid) not in self.integers:
            self.integers[floating, grid] = self._tensor(floating, grid)
            self._convert(_BUILTIN.QUANTIZE, floating, self.integers[floating, grid])
        return self.integers[floating, grid]

    def _convert(self, kind: int, given: int, made: int) -> None:
        self.operators.append(edits.operator(self.model, kind, given, made, _VERSIONS[kind]))

    def _tensor(self, floating: int, grid: Grid) -> int:
        """A tensor of integers like one in floating point."""
        return self._like(floating, _TYPE.INT16, 0, edits.scaled(np.array([grid.scale], np.float32), 0))

    def _weights(self, index: int, axis: int, layer: Layer, data: NDArray[np.int8]) -> int:
        return self._constant(index, np.moveaxis(data, 0, axis), _TYPE.INT8, edits.scaled(layer.scale, axis))

    def _bias(self, index: int, layer: Layer) -> int:
        number = np.frombuffer(bytes(self.model.buffers[self.graph.tensors[index].buffer].data), np.float32)
        scale = layer.scale.astype(np.float64) * layer.given.scale
        return self._constant(
            index, np.rint(number / scale).astype(np.int64), _TYPE.INT64, edits.scaled(scale.astype(np.float32), 0)
        )

    def _constant(self, index: int, numbers: NDArray[Any], kind: int, quantization: Any) -> int:
        """A constant of integers; the one in floating point stays for others that take it."""
        return self._like(index, kind, edits.constant(self.model, numbers), quantization)

    def _like(self, index: int, kind: int, buffer: int, quantization: Any) -> int:
        """A new tensor of the shape of another."""
        old, new = self.graph.tensors[index], schema.TensorT()
        new.name, new.shape, new.shapeSignature, new.hasRank = b"", old.shape, old.shapeSignature, old.hasRank
        new.type, new.buffer, new.quantization = kind, buffer, quantization
        self.graph.tensors.append(new)
        return len(self.graph.tensors) - 1


def drop_unused(model: Any, graph: Any) -> None:
    """Leave the numbers out that no operator takes any more."""
    taken = {*graph.inputs, *graph.outputs} | {i for f in graph.operators for i in (*f.inputs, *f.outputs) if i >= 0}
    used = {graph.tensors[i].buffer for i in taken}
    kept = used | {0} | {entry.buffer for entry in model.metadata or ()}
    for number, buffer in enumerate(model.buffers):
        if number not in kept:
            buffer.data = None
