"""RMS normalisation is one operator in ONNX Runtime, with factors and without, the user's own and rewritten ones."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from lvexport.converters import onnx_norms
from lvexport.converters.contract import Captured, Request, TensorSpec
from lvexport.converters.recipes import RECIPES
from lvexport.converters.registry import CONVERTERS
from lvexport.converters.rewrites import apply

FUSED = "SimplifiedLayerNormalization"


class Blocks(nn.Module):
    def __init__(self, norm: type[nn.Module], affine: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norms = nn.ModuleList(norm(16, elementwise_affine=affine) for _ in range(3))
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
        for parameter in self.norms.parameters():
            nn.init.uniform_(parameter, 0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers[0](x)
        for norm, layer in zip(self.norms[:2], self.layers[1:], strict=True):
            x = x + layer(norm(x))
        y: Tensor = self.norms[2](x)
        return y


def converted(model: nn.Module, folder: Path, rewrites: list[str], recipe: str = "fp32") -> Path:
    program = torch.export.export(model.eval(), (torch.rand(1, 5, 16),))
    module, _ = apply.rewritten(program, rewrites)
    torch.export.save(torch.export.export(module, (torch.rand(1, 5, 16),)), folder / "program.pt2")
    given, made = TensorSpec("x", (1, 5, 16), "float32"), TensorSpec("y", (1, 5, 16), "float32")
    captured = Captured(folder / "program.pt2", (given,), (made,))
    CONVERTERS["onnx"].convert(captured, Request(RECIPES[recipe]), folder / "made.onnx")
    return folder / "made.onnx"


def operators(made: Path, folder: Path) -> list[str]:
    """What ONNX Runtime makes of a model."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # of the warning that this file suits one processor
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(str(made), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node]


@pytest.mark.parametrize("recipe", ["fp32", "fp16"])
@pytest.mark.parametrize("affine", [True, False], ids=["factors", "none"])
def test_rms_normalisation_is_fused(affine: bool, recipe: str, tmp_path: Path) -> None:
    made = converted(Blocks(nn.RMSNorm, affine), tmp_path, [], recipe)
    assert operators(made, tmp_path).count(FUSED) == 3


@pytest.mark.parametrize("rewrites", [["rms-norms"], ["norm-affines", "rms-norms"]], ids=["kept", "folded"])
def test_layer_normalisation_that_weights_centre_is_fused(rewrites: list[str], tmp_path: Path) -> None:
    made = converted(Blocks(nn.LayerNorm, affine=True), tmp_path, rewrites)
    assert operators(made, tmp_path).count(FUSED) == 3


def test_without_a_factor_it_is_not_fused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_norms, "with_factors", lambda model: model)
    made = converted(Blocks(nn.RMSNorm, affine=False), tmp_path, [])
    assert FUSED not in operators(made, tmp_path)


@pytest.mark.parametrize(("squared", "axis", "factors"), [("x", -1, 1), ("x", 1, 1), ("y", -1, 0), ("x", 0, 0)])
def test_a_factor_is_put_behind_normalisation_over_the_last_axis(squared: str, axis: int, factors: int) -> None:
    """And not behind x/√(mean(y²) + ε), which is no normalisation of x."""
    make = onnx.helper.make_node
    nodes = [
        make("Pow", [squared, "two"], ["square"]),
        make("ReduceMean", ["square", "last"], ["mean"]),
        make("Add", ["mean", "epsilon"], ["sum"]),
        make("Sqrt", ["sum"], ["root"]),
        make("Div", ["x", "root"], ["z"]),
    ]
    given = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (2, 4)) for name in "xy"]
    held = [
        onnx.helper.make_tensor("two", onnx.TensorProto.FLOAT, (), [2.0]),
        onnx.helper.make_tensor("last", onnx.TensorProto.INT64, (1,), [axis]),
        onnx.helper.make_tensor("epsilon", onnx.TensorProto.FLOAT, (), [1e-5]),
    ]
    out = [onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, (2, 4))]
    graph = onnx.helper.make_graph(nodes, "quotient", given, out, held)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    made = [node.op_type for node in onnx_norms.with_factors(model).graph.node]
    assert made == [node.op_type for node in nodes] + ["Mul"] * factors
