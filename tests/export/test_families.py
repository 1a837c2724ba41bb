"""The main job on one network of each family but MobileViT, whose demo all other tests use: every target, verified."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import ALL, Run

DEMOS = {"mobile_former": "mobile_former_26m", "efficientformer": "efficientformer_nano"}


@pytest.mark.parametrize("family", DEMOS)
def test_a_family_offline(family: str, lvexport: Run, tmp_path: Path) -> None:
    """By its alias, with nothing but what ships."""
    done = lvexport(family, "--to", ALL, "--quantize", "fp16", "--samples", "40", "--json", "--output", tmp_path)
    manifest = json.loads(done.stdout)
    assert manifest["model"]["name"] == DEMOS[family]
    assert manifest["model"]["weights"]["kind"] == "demo"
    assert f"DEMO WEIGHTS: {DEMOS[family]}" in done.stderr
    for artifact in manifest["artifacts"]:
        summed_in_half = artifact["target"] == "executorch" and sums_in_half()
        assert artifact["status"] == "ok" or summed_in_half, artifact
        assert artifact["verdict"]["sqnr_db"] >= (36 if summed_in_half else 40)
    assert done.returncode == any(a["status"] == "failed" for a in manifest["artifacts"]), done.stderr


def sums_in_half() -> bool:
    """Whether XNNPACK's half-precision kernels keep sums in it here, for which no threshold is loosened."""
    path = Path("/proc/cpuinfo")
    return path.exists() and "avx512_fp16" in path.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilevitv2_050", "efficientformerv2_s0"])
def test_a_family_that_ships_no_weights(name: str, lvexport: Run, tmp_path: Path) -> None:
    done = lvexport(name, "--to", ALL, "--weights", "random", "--samples", "20", "--json", "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    assert all(artifact["verdict"]["sqnr_db"] >= 80 for artifact in json.loads(done.stdout)["artifacts"])
