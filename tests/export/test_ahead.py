"""Processes that import a converter before there is anything to convert."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from torch import nn
from torch.fx.traceback import NodeSource

from lvexport.converters import provenance
from lvexport.converters.contract import Captured, TensorSpec
from lvexport.converters.registry import CONVERTERS
from lvexport.errors import CellError
from lvexport.jobs import ConvertJob, Limits
from lvexport.pipeline import longest_first, look_ahead
from lvexport.plan import Plan, cells
from lvexport.processes import SPINS, Family, Workshop, environment, interruptible
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
        ("executorch", "fp32"),
        ("executorch", "fp16"),
        ("coreml", "fp32"),  # which the interpreter takes long to run
        ("coreml", "fp16"),
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
            assert module.removeprefix("lvexport.converters.") in source or module == "onnxscript"


def test_coremltools_is_imported_without_what_no_conversion_needs() -> None:
    """In a process of its own, for others are there for good once they are."""
    code = """
        import sys
        from lvexport.converters.coremltools_alone import NOT_NEEDED, coremltools
        print(*(name for name in NOT_NEEDED if name in sys.modules))
        import sklearn, executorch
        print(coremltools.__name__, hasattr(coremltools, "convert"), sklearn.__name__)
    """
    done = subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["", "coremltools True sklearn"]


def test_shared_histories_of_nodes_are_those_that_are_copied() -> None:
    def histories() -> list[str]:
        program = torch.export.export(nn.Sequential(nn.Linear(4, 4), nn.GELU()).eval(), (torch.rand(1, 4),))
        for _ in range(2):
            program = program.run_decompositions({})
        found = [source for node in program.graph.nodes for source in node.meta.get("from_node", ())]
        return [re.sub(r"graph_id=\d+", "", source.print_readable()) for source in found]

    copied = histories()
    own = NodeSource.__dict__.get("__deepcopy__")
    provenance.share()
    try:
        assert histories() == copied
        assert any("pass_name" in line for line in copied)
    finally:
        if own is None:
            del NodeSource.__deepcopy__


def test_memory_of_what_a_cell_starts_counts_too() -> None:
    child = "import sys; held = b'x' * 2**28; print('ready', flush=True); sys.stdin.read()"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert Family(process.pid).resident() > 2**28
        process.communicate(b"")
    assert Family(process.pid).resident() == 0


def test_threads_that_wait_soon_sleep_unless_it_is_said_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    assert environment(Limits())["GOMP_SPINCOUNT"] == SPINS
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    assert environment(Limits())["GOMP_SPINCOUNT"] == "7"
