"""The main job for ExecuTorch's Core ML delegate, whose package is taken out of the program and interpreted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lvexport import files
from lvexport.bundle import read
from lvexport.converters.contract import Captured, Request, TensorSpec
from lvexport.converters.recipes import FP16, FP32
from lvexport.converters.registry import CONVERTERS
from lvexport.validation.contract import ArtifactError, CannotRun, OpenSession
from lvexport.validation.runtimes.registry import RUNTIMES
from tests.conftest import Run
from tests.faults import SCALE, record_again
from tests.networks import SIDE
from tests.rounded_faults import FAULTS

TARGET = "executorch:coreml"
MIN_IOS = {"min_ios": "17"}


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.SiLU(), nn.Flatten(), nn.Linear(392, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Mixed(nn.Module):
    """ExecuTorch's Core ML partitioner leaves the diagonal out."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.diagonal(x.exp(), dim1=2, dim2=3).sum(-1).tanh()


def converted(model: nn.Module, out: Path, recipe: str = "fp32") -> Path:
    program, x = out.with_suffix(".pt2"), torch.rand(1, 3, 16, 16)
    torch.export.save(torch.export.export(model.eval(), (x,)), program)
    shape = tuple(model(x).shape)
    captured = Captured(program, (TensorSpec("x", (1, 3, 16, 16), "float32"),), (TensorSpec("y", shape, "float32"),))
    request = Request({"fp32": FP32, "fp16": FP16}[recipe], MIN_IOS)
    CONVERTERS[TARGET].convert(captured, request, out)
    return out


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return converted(Small(), tmp_path_factory.mktemp("small") / "small.pte")


@pytest.mark.parametrize(
    "model",
    [
        (f"{Path(__file__).parents[1] / 'networks.py'}:wide", "--imgsz", str(SIDE)),
        pytest.param(("mobilevit", "--weights", "demo"), marks=pytest.mark.slow),
    ],
    ids=["small", "demo"],
)
def test_the_main_job_and_planted_faults(model: tuple[str, ...], lvexport: Run, tmp_path: Path) -> None:
    done = lvexport(*model, "--to", TARGET, "--quantize", "fp32,w8", "--samples", "20", "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    (bundle,) = tmp_path.iterdir()
    row, rounded = read(bundle).results
    assert (row.target, row.backend, row.path) == (TARGET, "coreml", f"{bundle.name}-fp32.executorch-coreml.pte")
    assert row.verdict is not None
    assert row.verdict.runtime.startswith("lvexport MIL reference interpreter")
    assert row.verdict.sqnr_db >= 90
    assert row.verdict.interval is None
    assert rounded.verdict is not None
    assert rounded.verdict.interval is not None
    assert set(rounded.verdict.interval.sqnr_db) == {"exact", "rounded", "pessimistic"}
    integers = bundle / (rounded.path or "")
    assert b"debugSymbolToOperationPath" not in integers.read_bytes()
    FAULTS[TARGET, "w8"]["axis"](integers)
    record_again(bundle, integers.name)
    done = lvexport("verify", integers)
    assert done.returncode == 1, done.stderr
    assert f"{integers.name} does not hold the integers that the network was rounded to" in done.stderr
    program = bundle / (row.path or "")
    SCALE[TARGET](program)
    record_again(bundle, program.name)
    done = lvexport("verify", program)
    assert done.returncode == 1, done.stderr
    assert f"{program.name} does not compute what the original computes" in done.stderr


@pytest.mark.parametrize(("recipe", "within"), [("fp32", 1e-6), ("fp16", 5e-3)])
def test_what_is_in_the_program_computes_what_the_module_computes(recipe: str, within: float, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Small()
    session = RUNTIMES[TARGET].load(converted(model, tmp_path / "small.pte", recipe), 1)
    assert [(s.name, s.shape, s.dtype) for s in session.inputs] == [("input_0", (1, 3, 16, 16), "float32")]
    assert [(s.name, s.shape, s.dtype) for s in session.outputs] == [("output_0", (1, 4), "float32")]
    x = torch.rand(1, 3, 16, 16)
    found = torch.from_numpy(session.run({"input_0": x.numpy()})["output_0"])
    assert torch.allclose(found, model(x), atol=within)


def test_bytes_follow_from_the_program(small: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    assert files.digest(converted(Small(), tmp_path / "again.pte")) == files.digest(small)


def test_info_reads_the_package_inside(small: Path) -> None:
    found = RUNTIMES[TARGET].describe(small)
    assert found.operators["conv"] == 1
    assert found.operators["linear"] == 1


@pytest.mark.parametrize("how", ["cut", "emptied", "zeroed", "flipped"])
def test_damage_is_an_error(how: str, small: Path, tmp_path: Path) -> None:
    content, half = small.read_bytes(), small.stat().st_size // 2
    changed = {
        "cut": content[:half],
        "emptied": b"",
        "zeroed": content[:half] + bytes(len(content) - half),
        "flipped": content[:half] + bytes(b ^ 0xFF for b in content[half:]),
    }
    victim = tmp_path / "victim.pte"
    victim.write_bytes(changed[how])
    with pytest.raises(ArtifactError):
        RUNTIMES[TARGET].load(victim, 1)


def test_a_program_that_is_more_than_the_delegate_is_not_run(lvexport: Run, tmp_path: Path) -> None:
    done = lvexport(f"{__file__}:Mixed", "--imgsz", "16", "--to", TARGET, "--samples", "4", "--output", tmp_path)
    assert done.returncode == 3, done.stderr
    assert "was built but NOT RUN" in done.stderr
    (row,) = read(tmp_path / f"{Path(__file__).stem}-Mixed-16").results
    assert (row.status, row.verdict) == ("not-run", None)
    assert "is not one call of CoreMLBackend" in (row.error or "")
    program = tmp_path / f"{Path(__file__).stem}-Mixed-16" / (row.path or "")
    with pytest.raises(CannotRun):
        RUNTIMES[TARGET].load(program, 1)
    again = lvexport("verify", program, "--json")
    assert again.returncode == 3
    assert json.loads(again.stdout)["artifacts"][0]["status"] == "not-run"


class Large(nn.Module):
    """A number beyond the range of half precision on the way, from numbers beyond 2."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x.mean((2, 3)) * 30000.0) + x.mean((2, 3))


def test_an_overflow_in_the_package_is_named(tmp_path: Path) -> None:
    program = converted(Large(), tmp_path / "large.pte", "fp16")
    session = RUNTIMES[TARGET].load(program, 1)
    assert isinstance(session, OpenSession)
    assert session.numerics == ("exact", "rounded", "pessimistic")
    numerical = session.under("rounded")
    numerical.run({"input_0": np.full((1, 3, 16, 16), 10, np.float32)})
    assert numerical.overflow is not None
    assert "mul" in numerical.overflow.operation
    exact = session.under("exact")
    exact.run({"input_0": np.full((1, 3, 16, 16), 10, np.float32)})
    assert exact.overflow is None
