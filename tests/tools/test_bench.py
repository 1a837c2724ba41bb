"""The benchmark: both sides are made, timed in turn, and written down."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tools.bench import __main__ as bench
from tools.bench import page, roofs

ROOT = Path(__file__).parent.parent.parent
DOCUMENT = {
    "machine": "a machine",
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
                },
                "onnx fp16": {"error": "the minimal script fails"},
            },
        }
    },
}


def test_the_page_has_ratios_roofs_and_failures() -> None:
    written = page.text(DOCUMENT)
    # 2 GFLOP in 20 ms are 100 GFLOP/s, half of the faster library's 200.
    assert "| `net` | 64 | 1.00 | 50 | executorch | fp32 | 20.00 | 0.50 (0.40–0.60) | 50% | 1 |" in written
    assert "the minimal script fails" in written


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


@pytest.mark.slow
def test_roofs_are_measured() -> None:
    found = roofs.measure()
    assert found.best >= max(found.gflops.values()) > 1
    assert found.bandwidth > 0.1
