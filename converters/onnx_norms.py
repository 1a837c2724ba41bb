"""RMS normalisation in ONNX models, in the form that ONNX Runtime computes in one pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx


def with_factors(model: Any) -> Any:
    """The model with factors of one behind RMS normalisations x/√(mean(x²) + ε) that have none.

    ONNX Runtime fuses these with a factor behind them alone (onnxruntime/core/optimizer/layer_norm_fusion.cc), in half
    the time of the operators one by one. onnxsim takes out factors of one.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    makers = {name: node for node in graph.node for name in node.output}
    known = onnx.shape_inference.infer_shapes(model).graph
    kinds = {value.name: value.type.tensor_type for value in (*known.value_info, *known.output)}
    nodes = []
    for node in list(graph.node):
        nodes.append(node)
        kind = kinds.get(node.output[0])
        if kind is not None and is_norm(node, makers, last_of(graph, kind)) and not is_multiplied(node, graph):
            nodes.append(factor_behind(graph, node, kind))
    del graph.node[:]
    graph.node.extend(nodes)
    return changed


def last_of(graph: Any, kind: Any) -> set[str]:
    """The constants that name the last axis of a tensor of this type alone."""
    rank = len(kind.shape.dim)
    integers = (tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT64)
    return {t.name for t in integers if onnx.numpy_helper.to_array(t).reshape(-1).tolist() in ([-1], [rank - 1])}


def is_norm(node: Any, makers: dict[str, Any], last: set[str]) -> bool:
    """Whether a node is the quotient of x and √(mean(x²) + ε), over the last axis, which constants in ``last`` name."""
    x, at = (node.input[0], node) if node.op_type == "Div" else ("", None)
    for operation in ("Sqrt", "Add", "ReduceMean", "Pow"):
        at = None if at is None else makers.get(at.input[1 if at is node else 0])
        if at is None or at.op_type != operation or (operation == "ReduceMean" and not last & {*at.input[1:]}):
            return False
    return bool(at is not None and at.input[0] == x)


def is_multiplied(node: Any, graph: Any) -> bool:
    """Whether what a node gives is multiplied by a constant vector, and nothing else is done with it."""
    vectors = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 1}
    users = [user for user in graph.node if node.output[0] in user.input]
    return len(users) == 1 and users[0].op_type == "Mul" and any(name in vectors for name in users[0].input)


def factor_behind(graph: Any, node: Any, kind: Any) -> Any:
    """A product of what a node gives and ones, under the name that the node's own had. ``kind``: its type."""
    ones = np.ones(kind.shape.dim[-1].dim_value, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    tensor = onnx.numpy_helper.from_array(ones, f"ones_{ones.size}_{ones.dtype}")
    if tensor.name not in {held.name for held in graph.initializer}:
        graph.initializer.append(tensor)
    (name,) = node.output
    node.output[0] = f"{name}_unscaled"
    return onnx.helper.make_node("Mul", [node.output[0], tensor.name], [name], name=f"{name}_scaled")
