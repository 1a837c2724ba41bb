"""Faults planted before the conversion: the artifact is sound, and computes something else."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ALL, Run

SWAPPED = """
import lvexport
from torch import nn

class Swapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = lvexport.build("mobilevit_xxs", weights="demo")

    def forward(self, x):
        return self.network(x[:, [2, 1, 0]])

model = Swapped
"""
RELU = """
import lvexport
from torch import nn

def model():
    network = lvexport.build("mobilevit_xxs", weights="demo")
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.SiLU):
                setattr(parent, name, nn.ReLU())
    return network
"""
NETWORK = """
import torch
from torch import nn

def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3, 4, 1), nn.SiLU(), nn.Flatten(), nn.Linear(4096, 10))
"""
# Numbers beyond the range of half precision on the way, which a device need not get right; every output is as it was.
LARGE = f"""{NETWORK}
class Large(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = network()

    def forward(self, x):
        logits = self.network(x) * 10.0
        return logits + torch.tanh(logits * 30000.0)

model = Large
"""
# No number is beyond it, but a sum is.
LONG = f"""{NETWORK}
class Long(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = network()

    def forward(self, x):
        return self.network(x) + (x.abs() * 30.0).mean(dim=(1, 2, 3)).unsqueeze(1)

model = Long
"""
FAULTS = {"swapped": SWAPPED, "relu": RELU}


def plant(fault: str, targets: str, recipes: str, tmp_path: Path, lvexport: Run) -> list[Path]:
    """Artifacts of the faulty network. Each is what its own original computes, so making them succeeds."""
    script = tmp_path / f"{fault}.py"
    script.write_text(FAULTS[fault])
    typed = (script, "--imgsz", "64", "--to", targets, "--quantize", recipes, "--samples", "50")
    done = lvexport(*typed, "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    return [p for p in (tmp_path / f"{fault}-64").iterdir() if p.suffix in (".mlpackage", ".tflite", ".pte", ".onnx")]


def caught(artifacts: list[Path], lvexport: Run) -> None:
    for artifact in artifacts:
        done = lvexport("verify", artifact, "--against", "mobilevit", "--samples", "50")
        assert done.returncode == 1, f"{artifact.name}: {done.stdout} {done.stderr}"
        assert f"{artifact.name} does not compute" in done.stderr


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_before_the_conversion_is_caught(fault: str, tmp_path: Path, lvexport: Run) -> None:
    caught(plant(fault, "onnx", "fp32,fp16", tmp_path, lvexport), lvexport)


def export_halves(code: str, tmp_path: Path, lvexport: Run) -> tuple[Path, subprocess.CompletedProcess[str], Any]:
    """The bundle of a model's Core ML packages, what was printed, and the verdict on half precision."""
    script = tmp_path / "own.py"
    script.write_text(code)
    typed = (script, "--imgsz", "64", "--to", "coreml", "--quantize", "fp32,fp16", "--samples", "24")
    done = lvexport(*typed, "--output", tmp_path)
    bundle = tmp_path / "own-64"
    single, half = json.loads((bundle / "manifest.json").read_text())["artifacts"]
    assert (single["status"], single["verdict"]["interval"]) == ("ok", None)
    # Nothing but the overflow speaks against it.
    assert half["verdict"]["sqnr_db"] > half["verdict"]["threshold_db"]
    return bundle, done, half["verdict"]


def test_an_overflow_of_half_precision_is_caught_and_named(tmp_path: Path, lvexport: Run) -> None:
    bundle, done, verdict = export_halves(LARGE, tmp_path, lvexport)
    assert done.returncode == 1, done.stderr
    assert not verdict["passed"]
    assert verdict["interval"]["overflow"]["numerics"] == "rounded"
    assert "OVERFLOW" in done.stdout
    again = lvexport("verify", bundle)
    assert again.returncode == 1
    for said in (done.stderr, again.stderr):
        assert "own-64-fp16.coreml.mlpackage overflows: mul (which makes" in said


def test_an_overflow_of_sums_in_half_precision_alone_is_a_warning(tmp_path: Path, lvexport: Run) -> None:
    _, done, verdict = export_halves(LONG, tmp_path, lvexport)
    assert done.returncode == 0, done.stderr
    assert verdict["passed"]
    assert verdict["interval"]["overflow"]["numerics"] == "pessimistic"
    assert (
        "may overflow where a device keeps sums in half precision: summed so, reduce_mean (which makes" in done.stderr
    )


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_before_the_conversion_is_caught_on_every_target(fault: str, tmp_path: Path, lvexport: Run) -> None:
    artifacts = plant(fault, ALL, "fp32,fp16", tmp_path, lvexport)
    assert len(artifacts) == 8
    caught(artifacts, lvexport)
