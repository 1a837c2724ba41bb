"""Convolutions as linear layers of what lies around each place: the same function, for every kernel and stride."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lvexport.converters.derived import attach
from lvexport.converters.patches import as_linear, matrix

Pair = tuple[int, int]


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "size"),
    [
        ((3, 3), (1, 1), (1, 1), (1, 1), (8, 9)),
        ((3, 3), (2, 2), (1, 1), (1, 1), (8, 9)),
        ((7, 5), (3, 3), (2, 1), (1, 1), (20, 17)),  # more places than are joined at a time
        ((3, 3), (2, 2), (2, 2), (2, 2), (11, 12)),
        ((1, 1), (2, 2), (0, 0), (1, 1), (9, 9)),
        ((2, 3), (1, 2), (0, 0), (2, 1), (9, 12)),
    ],
)
def test_a_convolution_is_a_linear_layer_of_patches(
    kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, size: Pair
) -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(6, 5, kernel, stride, padding, dilation).eval()
    x = torch.randn(1, 6, *size)
    module: Any = torch.export.export(convolution, (x,)).module()
    (layer,) = module.graph.find_nodes(op="call_function", target=torch.ops.aten.conv2d.default)
    linear = as_linear(layer)
    with module.graph.inserting_before(linear):
        linear.update_arg(1, module.graph.get_attr(attach(module, "matrix", matrix(convolution.weight))))
    module.recompile()
    targets = {node.target for node in module.graph.nodes}
    assert torch.ops.aten.conv2d.default not in targets
    assert torch.allclose(module(x), convolution(x), atol=1e-5)
