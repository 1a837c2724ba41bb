"""ExecuTorch programs for Ethos-U: what the accelerator gets, what stays with the processor, and why."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lvexport.converters import apart
from lvexport.converters.arm import for_arm
from lvexport.converters.contract import Captured, ConversionError, Notes, Request
from lvexport.converters.quantization.grids import QUANTIZED
from lvexport.converters.quantization.quantize import Calibration, quantize
from lvexport.converters.quantization.settings import Settings
from lvexport.converters.recipes import W8A8
from lvexport.converters.registry import CONVERTERS
from lvexport.converters.rewrites.graph import is_call
from lvexport.plan import installed, remedy
from lvexport.validation.contract import CannotRun
from lvexport.validation.runtimes.registry import RUNTIMES

TARGET = "executorch:ethos-u"
OPTIONS = {"accelerator": "ethos-u55-128", "sram": "any", "flash": "any"}


class Tiny(nn.Module):
    """Convolutions with SiLU between them, a softmax, which has no integer form, a head: (1, 3, 8, 8) → (1, 4)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.wide, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 1), nn.Linear(8, 4)
        self.norm = nn.LayerNorm(16)  # of which the program's operation makes three tensors

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.wide(nn.functional.silu(self.stem(x))).flatten(2))
        logits: Tensor = self.head((x * x.softmax(2)).sum(2))
        return logits


def rounded(network: nn.Module, path: Path) -> Captured:
    inputs = [(x[None],) for x in torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))]
    module = torch.export.export(network.eval(), inputs[0]).module()
    program, _, _ = quantize(module, Calibration(inputs), inputs[:4], Settings(8, "percentile", False, None, 0))
    torch.export.save(program, path)
    return Captured(path, (), ())


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Captured:
    return rounded(Tiny(), tmp_path_factory.mktemp("program") / "rounded.pt2")


@dataclass(frozen=True)
class Made:
    path: Path
    notes: Notes


@pytest.fixture(scope="module")
def made(captured: Captured, tmp_path_factory: pytest.TempPathFactory) -> Made:
    out = tmp_path_factory.mktemp("ethos-u") / "tiny.pte"
    return Made(out, CONVERTERS[TARGET].convert(captured, Request(W8A8, OPTIONS), out))


def test_integer_biases_change_nothing_that_rounding_does_not(captured: Captured) -> None:
    program = captured.program()
    prepared = for_arm(program)
    x = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    before, after = program.module(), prepared.module()
    pairs = [(before(one[None]), after(one[None])) for one in x]
    steps = [node.args[1] for node in program.graph.nodes if is_call(node, QUANTIZED.quantize_per_tensor.default)]
    assert max(float((a - b).abs().max()) for a, b in pairs) <= 1.01 * float(steps[-1])
    assert sum(torch.equal(a, b) for a, b in pairs) > 50
    dtypes = [n.args[-1] for n in prepared.graph.nodes if is_call(n, QUANTIZED.dequantize_per_channel.default)]
    assert dtypes.count(torch.int32) == 3


def test_layers_and_activations_are_the_accelerators(made: Made) -> None:
    operators = RUNTIMES[TARGET].describe(made.path).operators
    assert operators["delegate EthosUBackend"] == 2
    assert "aten::_softmax" in operators
    assert not {"aten::convolution", "aten::addmm", "aten::sigmoid"} & set(operators)
    assert made.notes.delegation is not None
    assert made.notes.delegation.calls == 2
    assert "quantized" in made.notes.delegation.outside["aten.mul.Tensor"]


def test_estimates_are_told(made: Made) -> None:
    told = "\n".join(made.notes.remarks)
    assert "cycles" in told
    assert "accelerator's 2 parts" in told
    assert "100.0% of MACs" in told


def test_it_is_made_and_not_run(made: Made) -> None:
    assert not RUNTIMES[TARGET].available().here
    with pytest.raises(CannotRun, match="only an Ethos-U"):
        RUNTIMES[TARGET].load(made.path, threads=1)


def test_without_marks_the_backend_takes_nothing(
    captured: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lvexport.converters.arm.mark", lambda program: None)
    with pytest.raises(ConversionError, match="takes nothing of this network"):
        CONVERTERS[TARGET].convert(captured, Request(W8A8, OPTIONS), tmp_path / "tiny.pte")


def test_what_lies_apart_is_found_and_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.path", [place for place in sys.path if "tosa-tools" not in place])
    assert installed("tosa-tools") == apart.PINS["tosa-tools"]
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    assert installed("tosa-tools") is None
    assert remedy(TARGET, ["tosa-tools"]).startswith("pip install --no-deps --target ")
    assert "lvexport[executorch,ethos-u]" in remedy(TARGET, ["executorch", "tosa-tools"])
