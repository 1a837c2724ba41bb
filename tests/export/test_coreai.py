"""The main job for Core AI, whose runtime is too slow in half precision for the sample of the other targets."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lvexport.bundle import read
from lvexport.validation.contract import ArtifactError
from lvexport.validation.runtimes.registry import RUNTIMES
from tests.conftest import Run
from tests.faults import SCALE, record_again

RECIPES = {"fp32": 90, "fp16": 45}


@pytest.fixture(scope="module")
def made(lvexport: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("dist")
    typed = ("mobilevit", "--weights", "demo", "--to", "coreai", "--quantize", ",".join(RECIPES), "--samples", "20")
    done = lvexport(*typed, "--output", output)
    assert done.returncode == 0, done.stderr
    return output / "mobilevit_xxs-demo-64"


@pytest.fixture
def asset(made: Path, tmp_path: Path) -> Path:
    """The single-precision asset in a copy of the bundle that a test may damage."""
    shutil.copytree(made, tmp_path / made.name)
    return tmp_path / made.name / f"{made.name}-fp32.coreai.aimodel"


def test_every_recipe_is_verified(made: Path) -> None:
    rows = {row.recipe: row for row in read(made).results}
    for recipe, least in RECIPES.items():
        verdict = rows[recipe].verdict
        assert rows[recipe].status == "ok"
        assert verdict is not None
        assert verdict.runtime.startswith("Core AI runtime ")
        assert verdict.sqnr_db >= least
    assert (rows["fp16"].bytes or 0) < 0.6 * (rows["fp32"].bytes or 0)


def test_running_does_not_load_the_converter(asset: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from lvexport.validation.runtimes.registry import RUNTIMES\n"
        f"RUNTIMES['coreai'].load(Path({str(asset)!r}), 1)\n"
        "print('loaded', *{'torch', 'coreai_torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded"


def test_a_scaled_weight_fails_the_verdict(asset: Path, lvexport: Run) -> None:
    SCALE["coreai"](asset)
    record_again(asset.parent, asset.name)
    done = lvexport("verify", asset)
    assert done.returncode == 1, done.stderr
    assert f"{asset.name} does not compute what the original computes" in done.stderr


def test_damage_that_digests_do_not_show_is_one_paragraph(asset: Path, lvexport: Run) -> None:
    program = asset / "main.mlirb"
    program.write_bytes(program.read_bytes()[:1000])
    record_again(asset.parent, asset.name)
    done = lvexport("verify", asset, "--json")
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    (row,) = json.loads(done.stdout)["artifacts"]
    assert row["status"] == "error"
    assert "its program is damaged" in row["error"]


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("main.mlirb", b"", "its program is damaged"),
        ("main.hash", b"0" * 32, "its program is damaged"),
        ("metadata.json", b"{", "cannot open"),
        ("main.mlirb", None, "it has no main.mlirb"),
        ("main.hash", None, "it has no main.hash"),
    ],
)
def test_what_is_no_asset_is_refused(file: str, content: bytes | None, words: str, asset: Path) -> None:
    if content is None:
        (asset / file).unlink()
    else:
        (asset / file).write_bytes(content)
    with pytest.raises(ArtifactError, match=words):
        RUNTIMES["coreai"].load(asset, 1)


def test_info_and_bench_read_the_asset(made: Path, lvexport: Run) -> None:
    asset = made / f"{made.name}-fp32.coreai.aimodel"
    found = json.loads(lvexport("info", asset, "--json").stdout)
    assert found["inputs"][0]["shape"] == [1, 3, 64, 64]
    assert found["outputs"][0]["shape"] == [1, 10]
    assert found["operators"]["conv2d"] > 10
    timed = lvexport("bench", asset, "--rounds", "2", "--runs", "2", "--json")
    assert timed.returncode == 0, timed.stderr
    assert json.loads(timed.stdout)["timings"][0]["runs"] == 4
