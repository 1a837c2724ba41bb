"""Rounded weights of ONNX models as integers times scales: the same numbers, whichever layer takes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from lvexport.converters.compression import quantize
from lvexport.converters.contract import Integers
from lvexport.converters.onnx_weights import OPSET, with_integers
from lvexport.converters.recipes import RECIPES

LAYERS = {
    "kernel": ("Conv", (40, 64, 3, 3), (1, 64, 5, 5), {}),
    "odd kernel": ("Conv", (33, 33, 3, 3), (1, 33, 5, 5), {}),
    "point": ("Conv", (48, 96, 1, 1), (1, 96, 2, 2), {}),
    "depthwise": ("Conv", (240, 1, 3, 3), (1, 240, 5, 5), {"group": 240}),
    "rows": ("Gemm", (64, 64), (2, 64), {"transB": 1}),
    "columns": ("Gemm", (64, 96), (2, 96), {}),
    "product": ("MatMul", (64, 96), (2, 3, 96), {}),
}


def integers(recipe: str) -> Integers:
    found = RECIPES[recipe].weights
    assert found is not None
    return found


def model(layer: str, weight: torch.Tensor) -> Any:
    """One layer with a weight (outputs, inputs, …)."""
    operation, _, given, attributes = LAYERS[layer]
    turned = operation == "MatMul" or (operation == "Gemm" and not attributes)
    value = (weight.T if turned else weight).contiguous().numpy()
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(operation, ["x", "w"], ["y"], **attributes)],
        "layer",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, given)],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(value, "w")],
    )
    opsets = [onnx.helper.make_opsetid("", OPSET)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)


def answer(made: Any, given: tuple[int, ...]) -> Any:
    x = np.random.default_rng(0).standard_normal(given, np.float32)
    return onnxruntime.InferenceSession(made.SerializeToString()).run(None, {"x": x})[0]


@pytest.mark.parametrize("recipe", ["w8", "w4"])
@pytest.mark.parametrize("layer", LAYERS)
def test_the_layer_computes_the_same(layer: str, recipe: str) -> None:
    _, shape, given, _ = LAYERS[layer]
    torch.manual_seed(0)
    weight = quantize(torch.randn(shape), integers(recipe)).restored()
    before = model(layer, weight)
    after, count = with_integers(before, integers(recipe))
    assert count == 1
    assert len(after.SerializeToString()) < 0.4 * len(before.SerializeToString())
    assert np.array_equal(answer(after, given), answer(before, given))


def test_what_was_not_rounded_stays() -> None:
    torch.manual_seed(0)
    before = model("rows", torch.randn(64, 64))
    after, count = with_integers(before, integers("w8"))
    assert count == 0
    assert after == before


def test_a_constant_that_is_also_something_else_stays() -> None:
    torch.manual_seed(0)
    before = model("product", quantize(torch.randn(96, 96), integers("w8")).restored())
    before.graph.node.append(onnx.helper.make_node("Add", ["w", "w"], ["twice"]))
    _, count = with_integers(before, integers("w8"))
    assert count == 0
