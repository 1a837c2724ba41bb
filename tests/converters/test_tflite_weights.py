"""Rounded weights of ``.tflite`` models as integers, run by LiteRT; what rounding activations costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from torch import Tensor, nn

from lvexport.converters.activations import rounded, simulated
from lvexport.converters.compression import Quantized, compress
from lvexport.converters.contract import DYNAMIC, FLOAT, Captured, Request, TensorSpec
from lvexport.converters.tflite import CONVERTER
from lvexport.converters.tflite_edits import code
from lvexport.converters.tflite_weights import OUTPUTS, is_kept
from lvexport.validation.metrics import sqnr_db
from lvexport.validation.runtimes.tflite import RUNTIME


class Net(nn.Module):
    """Each kind of layer, with a layer norm whose factors a converter may fold into the next layer."""

    def __init__(self) -> None:
        super().__init__()
        self.point, self.kernel = nn.Conv2d(48, 64, 1), nn.Conv2d(64, 96, 3, padding=1)
        self.depth = nn.Conv2d(96, 480, 3, groups=96, padding=1)
        self.norm, self.last = nn.LayerNorm(480), nn.Linear(480, 32)
        nn.init.uniform_(self.norm.weight, 0.1, 10)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.depth(self.kernel(self.point(x).relu()))
        return self.last(self.norm(maps.flatten(2).transpose(1, 2)))


GIVEN = (1, 48, 6, 6)


Answers = dict[str, np.ndarray]


def answered(recipe: str, ways: tuple[str, ...], folder: Path) -> tuple[Answers, tuple[str, ...]]:
    """Answers by the way that activations are taken, and of PyTorch: as it is, and with activations rounded; remarks.

    The models stay in the folder.
    """
    torch.manual_seed(0)
    found, program = CONVERTER.recipes[recipe], folder / "rounded.pt2"
    assert found.weights is not None
    given = (torch.randn(GIVEN),)
    opened: Any = torch.export.export(Net().eval(), given).module()
    rounded_ = compress(opened, given, found.weights)
    torch.export.save(rounded_, program)
    captured = Captured(program, (TensorSpec("x", GIVEN, "float32"),), (TensorSpec("y", (1, 36, 32), "float32"),))
    x = torch.randn(GIVEN, generator=torch.Generator().manual_seed(1))
    made, remarks = {}, ()
    for activations in ways:
        out = folder / f"{activations}.tflite"
        remarks = CONVERTER.convert(captured, Request(found, {"activations": activations}), out).remarks
        session = RUNTIME.load(out, threads=1)
        made[activations] = session.run({session.inputs[0].name: x.numpy()})[session.outputs[0].name]
    with torch.no_grad():
        same, coarse = rounded_.module()(x), simulated(rounded_, found.weights)(x)
    return made | {"torch": same.numpy(), "simulated": coarse.numpy()}, remarks


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    made, remarks = answered("w8", (DYNAMIC, FLOAT), tmp_path_factory.mktemp("w8"))
    assert remarks == ("weights in integers: 4",)
    return made


def test_dequantized_weights_are_the_rounded_ones(answers: Answers) -> None:
    assert sqnr_db(answers["torch"], answers[FLOAT]) > 110


def test_integer_layers_lose_what_the_simulation_says(answers: Answers) -> None:
    expected = sqnr_db(answers["torch"], answers["simulated"])
    assert 30 < expected < 60
    assert sqnr_db(answers["torch"], answers[DYNAMIC]) == pytest.approx(expected, abs=3)


def test_four_bits_are_computed_with_as_they_are(tmp_path: Path) -> None:
    made, remarks = answered("w4", (DYNAMIC,), tmp_path)
    assert remarks == ("weights in integers: 4", "weights of layers: 94.5% in 4 bits, 5.5% in 8 bits")
    expected = sqnr_db(made["torch"], made["simulated"])
    assert 30 < expected < 60
    assert sqnr_db(made["torch"], made[DYNAMIC]) == pytest.approx(expected, abs=3)
    model = schema.ModelT.InitFromPackedBuf((tmp_path / f"{DYNAMIC}.tflite").read_bytes(), 0)
    graph, kinds = model.subgraphs[0], schema.BuiltinOperator
    taken = [(code(model, o), graph.tensors[o.inputs[1]]) for o in graph.operators if code(model, o) in OUTPUTS]
    found = [(kind, tensor.type, tensor.quantization.details is not None) for kind, tensor in taken]
    four, eight = schema.TensorType.INT4, schema.TensorType.INT8
    assert found == [  # a convolution that looks at one place, a kernel, a kernel in groups, a linear layer
        (kinds.FULLY_CONNECTED, four, False),
        (kinds.CONV_2D, four, False),
        (kinds.DEPTHWISE_CONV_2D, eight, False),
        (kinds.FULLY_CONNECTED, four, True),
    ]


def test_blocks_whose_scales_half_precision_does_not_have_are_left(tmp_path: Path) -> None:
    scale = torch.full((64, 2, 1), 2.0**-28 * 255)
    assert is_kept(Quantized(torch.ones(64, 64, dtype=torch.int8), scale * 2**15, 4))
    assert not is_kept(Quantized(torch.ones(64, 64, dtype=torch.int8), scale, 4))


def test_rounding_keeps_each_range_to_its_own_steps() -> None:
    x = torch.tensor([[0.0, 1.0, 2.55], [-2.55e-3, 0.0, 0.0], [0.0, 0.0, 0.0], [5.0, 5.1, 5.1]])
    made = rounded(x, (-1,))
    assert torch.allclose(made[:2], x[:2])  # which are whole steps of 0.01 and 0.00001
    assert torch.equal(made[2], x[2])
    assert (made[3] - x[3]).abs().max() <= 5.1 / 255 / 2  # zero is in every range
    assert torch.unique(rounded(torch.randn(4096), (0,))).numel() <= 256
