"""Layers with 16-bit activations in ``.tflite`` models: found again whatever lies beside them, and run by LiteRT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from torch import Tensor, nn
from torch.export import ExportedProgram

from lvexport.converters.compression import Quantized
from lvexport.converters.contract import ConversionError
from lvexport.converters.derived import rewritten
from lvexport.converters.quantization.quantize import Calibration, quantize
from lvexport.converters.quantization.settings import Settings
from lvexport.converters.tflite_sixteen import has_scales, make_integer, rounded, write_layers
from lvexport.validation.metrics import sqnr_db
from lvexport.validation.runtimes.tflite import RUNTIME


class Net(nn.Module):
    """Factors before and behind layers, which the converter makes part of these; weights that two layers share."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.factor = nn.Conv2d(3, 8, 3, padding=1), nn.Parameter(torch.rand(8, 1, 1) + 0.5)
        self.gain, self.shift = nn.Parameter(torch.rand(8) + 0.5), nn.Parameter(torch.rand(8))
        self.second, self.third = nn.Linear(8, 16, bias=False), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        rows = (self.first(x) * self.factor).flatten(2).transpose(1, 2)
        y = self.second(rows * self.gain + self.shift)
        return self.third(self.third(y * 2.0).relu() + 1.0)


@pytest.fixture(scope="module")
def inputs() -> list[tuple[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(1, 3, 6, 6, generator=generator),) for _ in range(8)]


@pytest.fixture(scope="module")
def program(inputs: list[tuple[Tensor]]) -> ExportedProgram:
    torch.manual_seed(0)
    module = rewritten(torch.export.export(Net().eval(), inputs[0]))
    return quantize(module, Calibration(inputs), inputs, Settings(16))[0]


@pytest.fixture(scope="module")
def written(program: ExportedProgram, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sixteen") / "net.tflite"
    write_layers(program, out)
    return out


def test_layers_compute_what_the_rounded_program_does(
    program: ExportedProgram, written: Path, inputs: list[tuple[Tensor]]
) -> None:
    session, module = RUNTIME.load(written, threads=1), program.module()
    found = [session.run({session.inputs[0].name: x.numpy()})[session.outputs[0].name] for (x,) in inputs]
    with torch.no_grad():
        wanted = [module(x).numpy() for (x,) in inputs]
    assert sqnr_db(np.concatenate(wanted), np.concatenate(found)) > 70


def test_every_layer_has_integers_and_wide_biases(written: Path) -> None:
    model = schema.ModelT.InitFromPackedBuf(written.read_bytes(), 0)
    graph, kinds = model.subgraphs[0], schema.TensorType
    types = [[graph.tensors[i].type for i in o.inputs if i >= 0] for o in graph.operators]
    assert types.count([kinds.INT16, kinds.INT8, kinds.INT64]) == 3
    assert types.count([kinds.INT16, kinds.INT8]) == 1  # which has no bias


def test_a_factor_that_became_part_of_a_weight_is_seen(program: ExportedProgram) -> None:
    layer = next(rounded(rewritten(program)))
    data, scale = torch.from_numpy(layer.data), torch.from_numpy(layer.scale).reshape(-1, 1, 1, 1)
    assert has_scales(Quantized(data, scale, 8), layer)
    assert not has_scales(Quantized(data, scale * 1.001, 8), layer)


def test_a_layer_that_is_not_found_again_is_named(program: ExportedProgram, written: Path) -> None:
    model: Any = schema.ModelT.InitFromPackedBuf(written.read_bytes(), 0)  # which has none in floating point any more
    wanted = list(rounded(rewritten(program)))
    with pytest.raises(ConversionError, match=r"changed the weights of conv2d, linear, linear_1, linear_2"):
        make_integer(model, wanted)
