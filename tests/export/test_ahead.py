"""Processes that import a converter before there is anything to convert."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from torch import nn

from lvexport.converters.contract import Captured, TensorSpec
from lvexport.converters.registry import CONVERTERS
from lvexport.errors import CellError
from lvexport.jobs import ConvertJob, Limits
from lvexport.pipeline import longest_first, look_ahead
from lvexport.plan import Plan, cells
from lvexport.processes import Workshop, interruptible
from lvexport.source import resolve


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path / "shop", Limits())


def job(tmp_path: Path, out: str) -> ConvertJob:
    path = tmp_path / "linear.pt2"
    torch.export.save(torch.export.export(nn.Linear(4, 2).eval(), (torch.rand(1, 4),)), path)
    specs = (TensorSpec("x", (1, 4), "float32"),), (TensorSpec("y", (1, 2), "float32"),)
    return ConvertJob("onnx", "fp32", {}, Captured(path, *specs), tmp_path / out)


def test_a_conversion_takes_the_process_that_waits(shop: Workshop, tmp_path: Path) -> None:
    shop.prepare("onnx", ("no_such_module", *CONVERTERS["onnx"].modules))
    shop.do(job(tmp_path, "first.onnx"))
    assert (tmp_path / "first.onnx").exists()
    assert not shop.ahead
    assert [p.name for p in shop.folder.iterdir()] == ["cell-000"]


def test_a_process_that_died_meanwhile_is_a_failed_conversion(shop: Workshop, tmp_path: Path) -> None:
    shop.prepare("onnx", ("json",))
    shop.ahead["onnx"].process.kill()
    with pytest.raises(CellError, match="died"):
        shop.do(job(tmp_path, "never.onnx"))


def test_nothing_is_left_waiting(shop: Workshop) -> None:
    with interruptible(shop):
        shop.prepare("onnx", ("json",))
        process = shop.ahead["onnx"].process
        time.sleep(0.1)
        assert process.poll() is None
    assert process.poll() is not None


@pytest.mark.parametrize("workers", [1, 2, 9])
def test_only_idle_workers_look_ahead(workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(Workshop, "prepare", lambda shop, target, modules: asked.append(target))
    chosen = cells(["onnx", "tflite"], ["fp32", "fp16"], {})
    plan = Plan(resolve("mobilevit_xxs", "demo"), chosen, tmp_path, workers=workers)
    look_ahead(Workshop(tmp_path, Limits()), plan, {})
    assert asked == ["tflite", "onnx"][: workers - 1]


def test_long_conversions_are_begun_first() -> None:
    chosen = cells(["onnx", "executorch", "coreml", "tflite"], ["fp32", "fp16"], {})
    assert [(c.target, c.recipe) for c in longest_first(chosen)] == [
        ("coreml", "fp32"),  # which the interpreter takes long to run
        ("coreml", "fp16"),
        ("executorch", "fp32"),
        ("executorch", "fp16"),
        ("tflite", "fp32"),
        ("tflite", "fp16"),
        ("onnx", "fp32"),
        ("onnx", "fp16"),
    ]


def test_converters_name_what_they_import() -> None:
    for converter in CONVERTERS.values():
        source = (
            Path(__file__).parents[2] / "converters" / f"{converter.name.translate({ord(':'): '_', ord('-'): '_'})}.py"
        ).read_text()
        for module in converter.modules:
            assert module in source or module == "onnxscript"
