"""The main job for microcontrollers: what is verified, what is only made, and what lies beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lvexport
from lvexport.bundle import checksums_hold, recorded_checksums
from lvexport.errors import UsageError
from lvexport.manifest import ArtifactInfo
from tests.integer_faults import FAULTS, Fault, assert_named, with_faults
from tests.networks import SIDE, small

TARGETS = ("tflm", "ethos-u")
C_SOURCE = {"small-32-w8a8.tflm.c", "small-32-w8a8.tflm.h"}


def export(out: Path, **options: str) -> lvexport.Bundle:
    targets = TARGETS[1:] if options else TARGETS
    return lvexport.export(small(), targets, ["w8a8"], imgsz=SIDE, samples=100, output=out, name="small", **options)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> lvexport.Bundle:
    return export(tmp_path_factory.mktemp("micro"))


def row(bundle: lvexport.Bundle, target: str) -> ArtifactInfo:
    return next(a for a in bundle.results if a.target == target)


def test_what_the_interpreter_runs_is_judged(made: lvexport.Bundle) -> None:
    found = row(made, "tflm")
    assert found.verdict is not None
    assert "TensorFlow Lite Micro" in found.verdict.runtime
    assert found.verdict.compression is not None
    assert found.verdict.compression.sqnr_db >= found.verdict.compression.threshold_db
    layers = found.verdict.compression.layers
    assert layers is not None
    assert layers.found == layers.expected
    assert not layers.wrong


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_one_layer_is_named(made: lvexport.Bundle, fault: Fault, tmp_path: Path) -> None:
    assert_named(*with_faults(made, ["tflm"], fault, tmp_path)["tflm"])


def test_what_vela_makes_is_not_run(made: lvexport.Bundle) -> None:
    found = row(made, "ethos-u")
    assert (found.status, found.verdict) == ("not-run", None)
    assert found.error is not None
    assert "only an Ethos-U" in found.error
    digest = row(made, "tflm").sha256
    assert digest is not None
    assert digest in "\n".join(found.remarks)
    assert made.exit_code == 3


def test_c_source_belongs_to_the_bundle(made: lvexport.Bundle) -> None:
    assert set(row(made, "tflm").beside) == C_SOURCE
    assert set(recorded_checksums(made.path)) >= C_SOURCE
    assert checksums_hold(made.path)


def test_a_limit_that_is_passed_fails_the_artifact_with_advice(tmp_path: Path) -> None:
    found = row(export(tmp_path, flash="4"), "ethos-u")
    assert found.status == "error"
    assert found.error is not None
    assert "more than there are" in found.error
    assert "By estimate" in found.error


@pytest.mark.parametrize("target", TARGETS)
def test_floating_point_is_refused(target: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="microcontrollers compute in integers"):
        lvexport.export(small(), [target], ["fp32"], imgsz=SIDE, output=tmp_path, name="small")


class Apart(nn.Module):
    """ReLU6 that is no part of a layer, for what it clips is used as it was too; and hard swish in floating point."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 16, 3, stride=2), nn.Conv2d(16, 16, 1)
        self.last = nn.Linear(16, 4)
        for layer in (self.first, self.second):
            nn.init.normal_(layer.weight, std=2 / layer.weight[0].numel() ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = 4 * self.first(x)
        y = y + self.second(F.relu6(y))
        found: Tensor = self.last(F.hardswish(y.mean((2, 3))))
        return found


def test_activations_that_kernels_or_vela_do_otherwise(tmp_path: Path) -> None:
    bundle = lvexport.export(Apart(), TARGETS, ["w8a8"], imgsz=SIDE, samples=50, output=tmp_path, name="apart")
    micro, vela = row(bundle, "tflm"), row(bundle, "ethos-u")
    assert micro.verdict is not None
    assert micro.status == "ok", micro.verdict
    assert vela.status == "not-run", vela.error
