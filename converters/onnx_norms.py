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
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    means = {node.output[0]: mean for node in graph.node if (mean := mean_in_norm(node, makers)) is not None}
    if not means:
        return model
    known = onnx.shape_inference.infer_shapes(model).graph
    kinds = {value.name: value.type.tensor_type for value in (*known.value_info, *known.output)}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for node in list(graph.node):
        nodes.append(node)
        mean, kind = means.get(node.output[0]), kinds.get(node.output[0])
        if mean is None or kind is None or not is_over_last(mean, len(kind.shape.dim), constants):
            continue
        if not is_multiplied(node, graph):
            nodes.append(factor_behind(graph, node, kind))
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def mean_in_norm(node: Any, makers: dict[str, Any]) -> Any | None:
    """The mean, if a node is the quotient of x and √(mean(x²) + ε). ``makers``: the node that gives each tensor."""
    at, found = node, []
    for operation, place in (("Div", 1), ("Sqrt", 0), ("Add", 0), ("ReduceMean", 0), ("Pow", 0)):
        if at is None or at.op_type != operation:
            return None
        found.append(at)
        at = makers.get(at.input[place])
    *_, mean, square = found
    return mean if square.input[0] == node.input[0] else None


def is_over_last(mean: Any, rank: int, constants: dict[str, Any]) -> bool:
    """Whether a mean is over the last axis alone of a tensor of so many."""
    axes = [onnx.numpy_helper.to_array(constants[name]).reshape(-1) for name in mean.input[1:] if name in constants]
    return any(of.tolist() in ([-1], [rank - 1]) for of in axes)


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
