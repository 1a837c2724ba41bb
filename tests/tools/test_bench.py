"""The benchmark: both sides are made, timed in turn, and written down."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lvexport.models.registry import ENTRIES
from tools.bench import __main__ as bench
from tools.bench import cold, packages, page, roofs

ROOT = Path(__file__).parent.parent.parent
DOCUMENT = {
    "machine": "a machine",
    "runtimes": {"executorch": "ExecuTorch 0"},
    "roofs": {"gflops": {"A": 100.0, "B": 200.0}, "bandwidth": 20.0},
    "networks": {
        "net": {
            "imgsz": 64,
            "macs": 1_000_000_000,
            "traffic_bytes": 50_000_000,
            "cells": {
                "executorch fp32": {
                    "minimal_ms": 40.0,
                    "ours_ms": 20.0,
                    "ratio": 0.5,
                    "spread": [0.4, 0.6],
                    "delegation": {"calls": 1, "outside": {}},
                    "minimal": {"bytes": 5_100_000, "operators": 90},
                    "ours": {"bytes": 5_000_000, "operators": 1},
                },
                "onnx fp16": {"error": "the minimal script fails"},
            },
        }
    },
    "cold": {
        "machine": "Linux x86_64, a processor, 2 cores",
        **{
            name: {
                "targets": targets,
                "scripts": {"wall": 20.0, "processor": 19.0},
                "alone": {"wall": 10.0, "processor": 15.0},
                "ours": {"wall": 30.0, "processor": 50.0},
                "alone_ratio": {"ratio": 0.5, "spread": [0.4, 0.6]},
                "ours_ratio": {"ratio": 1.5, "spread": [1.4, 1.6]},
            }
            for name, targets in (("one", ["tflite"]), ("four", ["coreml", "tflite"]))
        },
    },
}


def test_the_page_has_ratios_roofs_and_failures() -> None:
    written = page.text(DOCUMENT)
    # 2 GFLOP in 20 ms are 100 GFLOP/s, half of the faster library's 200.
    assert "| `net` | 64 | 1.00 | 50 | executorch | fp32 | 20.00 | 0.50 (0.40–0.60) | 50% | 1 | 90 → 1 |" in written
    assert "| 5.1 → 5.0 |" in written
    assert "the minimal script fails" in written
    assert (
        "| coreml, tflite | 20.0 (19.0) | 10.0 (15.0) | 0.50 (0.40–0.60) | 30.0 (50.0) | 1.50 (1.40–1.60) |" in written
    )


def test_the_readme_is_written_between_its_marks(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- bench -->\nold\n<!-- end of bench -->\nafter\n")
    page.write(DOCUMENT, tmp_path)
    assert "| `net` | 64 | 0.50 (0.40–0.60) | – |" in readme.read_text()
    assert "old" not in readme.read_text()
    assert readme.read_text().endswith("<!-- end of bench -->\nafter\n")


def test_readme_has_what_was_measured() -> None:
    document = json.loads((ROOT / "docs" / "bench.json").read_text())
    readme = (ROOT / "README.md").read_text()
    assert f"<!-- bench -->\n{page.table(document)}<!-- end of bench -->" in readme, "type make bench"
    assert "(docs/bench.svg)" in readme
    assert (ROOT / "docs" / "bench.md").read_text() == page.text(document)
    assert document["networks"].keys() <= bench.NETWORKS.keys()
    assert document["machine"] in readme


def test_every_family_is_compared() -> None:
    assert {ENTRIES[name].family for name in bench.NETWORKS} == {entry.family for entry in ENTRIES.values()}
    assert all(ENTRIES[name].imgsz == imgsz for name, imgsz in bench.NETWORKS.items())


def test_the_picture_is_the_same_from_the_same_numbers(tmp_path: Path) -> None:
    for name in ("first.svg", "second.svg"):
        page.picture(DOCUMENT, tmp_path / name)
    assert (tmp_path / "first.svg").read_bytes() == (tmp_path / "second.svg").read_bytes()


def test_a_minimal_script_makes_what_ours_is_timed_with(demo_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "minimal.onnx"
    line = [sys.executable, "-m", "tools.bench.minimal", "onnx", "fp32", "mobilevit_xxs", "64", str(out)]
    subprocess.run(line, cwd=ROOT, check=True, capture_output=True)
    (own,) = demo_bundle.glob("*-fp32.onnx.onnx")
    found = bench.compare("onnx", out, own)
    low, high = found["spread"]
    assert low <= found["ratio"] <= high
    assert found["ours_ms"] > 0
    assert found["ours"]["operators"] > 0
    assert found["minimal"]["operators"] > 0
    assert found["ours"]["bytes"] == own.stat().st_size
    assert page.ratio(found) == f"{found['ratio']:.2f} ({low:.2f}–{high:.2f})"


def test_a_file_is_not_timed_against_itself(demo_bundle: Path, tmp_path: Path) -> None:
    (own,) = demo_bundle.glob("*-fp32.onnx.onnx")
    minimal = shutil.copyfile(own, tmp_path / "minimal.onnx")
    found = bench.compare("onnx", minimal, own)
    assert found["ratio"] == 1
    assert found["ours_ms"] == found["minimal_ms"] > 0
    assert page.ratio(found) == "same file"


def test_time_is_that_of_all_processes() -> None:
    both = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'sum(range(10**7))'], check=True)"
    spent = cold.spend(["timeit", "-n", "1", "-r", "1", both])
    assert spent.processor > 0.05
    assert spent.wall > 0.05
    assert cold.middle([spent, cold.Spent(0, 0), cold.Spent(1e9, 1e9)])["wall"] == spent.wall


@pytest.mark.slow
def test_roofs_are_measured() -> None:
    found = roofs.measure()
    assert found.best >= max(found.gflops.values()) > 1
    assert found.bandwidth > 0.1


def test_core_ml_packages_are_counted(tmp_path: Path) -> None:
    import coremltools as ct
    from coremltools.converters.mil import Builder as mb  # noqa: N813, as coremltools calls it

    @mb.program(input_specs=[mb.TensorSpec((2, 3))])
    def program(x: Any) -> Any:
        grown = mb.exp(x=mb.mul(x=x, y=2.0))
        return mb.transpose(x=mb.add(x=grown, y=x), perm=[1, 0])

    precision = {"fp32": ct.precision.FLOAT32, "fp16": ct.precision.FLOAT16}
    for name, kind in precision.items():
        made = ct.convert(program, convert_to="mlprogram", compute_precision=kind, skip_model_load=True)
        made.save(str(tmp_path / f"{name}.mlpackage"))
    found = packages.counts(tmp_path / "fp32.mlpackage")
    # While exp runs there are x, what it is given and what it gives, of 24 bytes each.
    assert found == {"operators": 4, "moving": 1, "casts": 0, "peak_bytes": 72}
    half = packages.counts(tmp_path / "fp16.mlpackage")
    assert half["casts"] == 2
    assert half["peak_bytes"] == 36
    row = {"minimal": half, "ours": found}
    written = page.text(DOCUMENT | {"packages": {"net fp16": row}})
    assert "| `net` | fp16 | 6 → 4 | 1 → 1 | 2 → 0 | 0 → 0 |" in written
