"""Weights of an ONNX model as integers times scales, in the place of the rounded ones.

They are spelled with a cast and a product of constants. Every runtime computes these once, when it loads the model, and
then the arithmetic is what it is without them. ONNX Runtime 1.32 does not do so with ``DequantizeLinear``, which it
keeps for networks whose activations are integers too: it then repeats the product for each input, or computes a matrix
product with its other factor rounded to 8 bits (MatMulNBits). That cost mobilevit_s half as much time again, and left
a network 49 dB from what its weights say.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from lvexport.converters.compression import Quantized, recovered
from lvexport.converters.contract import Integers

# The first opset that has 4-bit integers, and 16-bit ones in QuantizeLinear.
OPSET = 21
_KINDS = {8: onnx.TensorProto.INT8, 4: onnx.TensorProto.INT4}


@dataclass(frozen=True)
class Weight:
    """An initializer that is the weight of layers. ``columns``: its outputs are last, as a matrix product takes it."""

    name: str
    value: NDArray[np.float32]
    columns: bool


def with_integers(model: Any, integers: Integers) -> tuple[Any, int]:
    """The model with its rounded weights as integers, and how many these are. Everything else is left as it is."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    spelled: list[Any] = []
    for weight in list(weights(graph)):
        value = torch.from_numpy(weight.value.T if weight.columns else weight.value)
        found = recovered(value, integers)
        if found is not None:
            graph.initializer.remove(initializers[weight.name])
            spelled += spell(graph, weight, found, _KINDS[found.bits])
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*spelled, *nodes])
    return changed, sum(node.op_type == "Mul" for node in spelled)


def weights(graph: Any) -> Iterator[Weight]:
    """The constants that convolutions and matrix products take as weights, and that nothing else takes."""
    users: dict[str, set[tuple[str, int, bool]]] = {}
    for node in graph.node:
        for place, name in enumerate(node.input):
            users.setdefault(name, set()).add((node.op_type, place, has_columns(node)))
    for tensor in graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) >= 2 and len(users[tensor.name]) == 1:
            ((operation, place, columns),) = users[tensor.name]
            if operation in ("Conv", "Gemm", "MatMul") and place == 1 and (not columns or len(tensor.dims) == 2):
                yield Weight(tensor.name, onnx.numpy_helper.to_array(tensor).copy(), columns)


def has_columns(node: Any) -> bool:
    """Whether the outputs are the second axis of a layer's weight."""
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return node.op_type == "MatMul" or (node.op_type == "Gemm" and not transposed)


def spell(graph: Any, weight: Weight, found: Quantized, kind: int) -> list[Any]:
    """Add integers and scales to a graph; the nodes that make the weight of them, under its name."""
    outputs, blocks = found.scale.shape[:2]
    data, scale = found.data.numpy(), found.scale.numpy()
    if blocks > 1:
        data, scale = data.reshape(outputs, blocks, -1), scale.reshape(outputs, blocks, 1)
    if weight.columns:
        data, scale = np.moveaxis(data, 0, -1), np.moveaxis(scale, 0, -1)
    integers, scales, shape = (f"{weight.name}_{part}" for part in ("integers", "scales", "shape"))
    graph.initializer.append(onnx.helper.make_tensor(integers, kind, data.shape, packed(data, kind), raw=True))
    graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(scale), scales))
    wide, scaled = f"{integers}_wide", f"{weight.name}_scaled" if blocks > 1 else weight.name
    nodes = [
        onnx.helper.make_node("Cast", [integers], [wide], name=wide, to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("Mul", [wide, scales], [scaled], name=f"{scales}_times"),
    ]
    if blocks > 1:
        graph.initializer.append(onnx.numpy_helper.from_array(np.array(weight.value.shape, np.int64), shape))
        nodes.append(onnx.helper.make_node("Reshape", [scaled, shape], [weight.name], name=f"{scaled}_shaped"))
    return nodes


def packed(data: NDArray[np.int8], kind: int) -> bytes:
    """Integers as a tensor keeps them: of four bits, the first of two in the lower half of a byte."""
    flat = data.reshape(-1)
    if kind != onnx.TensorProto.INT4:
        return flat.tobytes()
    flat = np.append(flat, np.zeros(flat.size % 2, np.int8))
    return ((flat[0::2] & 15) | ((flat[1::2] & 15) << 4)).astype(np.uint8).tobytes()


def with_transposed(model: Any) -> Any:
    """The model with transposed integer weights where it transposes them: runtimes then find the layer behind."""
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    for node in [n for n in model.graph.node if n.op_type == "Transpose"]:
        scaled = producers.get(node.input[0])
        if scaled is None or scaled.op_type != "DequantizeLinear" or scaled.input[0] not in constants:
            continue
        order = next(a.ints for a in node.attribute if a.name == "perm")
        axis = next(a for a in scaled.attribute if a.name == "axis")
        turned = numpy_helper.to_array(constants[scaled.input[0]]).transpose(order)
        name = f"{scaled.input[0]}_transposed"
        model.graph.initializer.append(numpy_helper.from_array(turned.copy(), name))
        axis.i = list(order).index(axis.i)
        scaled.input[0], scaled.output[0] = name, node.output[0]
        model.graph.node.remove(node)
    used = {name for node in model.graph.node for name in node.input}
    for tensor in [t for t in model.graph.initializer if t.name not in used]:
        model.graph.initializer.remove(tensor)
    return model


def unsign(model: Any) -> None:
    """Count 8-bit integers from 0 to 255 in place of -128 to 127, weights and grids alike: the same numbers.

    Between integers without a sign and those with one, ONNX Runtime adds two products in 16 bits on processors of
    x86-64 that have no VNNI (VPMADDUBSW), where they overflow: the small network of the tests kept 26 dB of what it
    should answer, and keeps 65 so. The demo mobilevit_xxs took 3.3 ms there in place of 5.8.
    """
    from onnx import numpy_helper

    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.INT8:
            shifted = numpy_helper.to_array(tensor).astype(np.int16) - np.iinfo(np.int8).min
            tensor.CopyFrom(numpy_helper.from_array(shifted.astype(np.uint8), tensor.name))


def strip(model: Any) -> None:
    """Take out what the exporter notes of each node, which in a small network is as long as its weights."""
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    del model.graph.value_info[:]
