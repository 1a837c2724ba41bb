"""The main job's result: complete, verified, reproducible by others, and honest about planted faults and damage."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from safetensors import safe_open

from lvexport import files
from lvexport.bundle import Bundle
from lvexport.cell import BOUND_SAMPLES
from tests.conftest import Run
from tests.faults import SCALE, a_file_of, record_again

TARGETS = ("coreml", "tflite", "executorch", "onnx")
CELLS = [(target, recipe) for target in TARGETS for recipe in ("fp32", "fp16")]


def artifact_of(bundle: Path, target: str, recipe: str = "fp32") -> Path:
    return next(bundle.glob(f"*-{recipe}.{target}.*"))


def row_of(document: dict[str, object], target: str, recipe: str = "fp32") -> dict[str, object]:
    rows = document["artifacts"]
    assert isinstance(rows, list)
    (row,) = [r for r in rows if (r["target"], r["recipe"]) == (target, recipe)]
    assert isinstance(row, dict)
    return row


def test_the_main_job_exits_with_0_and_says_what_to_type_next(
    demo_run: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    path, done = demo_run
    assert done.returncode == 0, done.stderr
    assert "DEMO WEIGHTS" in done.stderr
    assert "a family; taking its smallest member, mobilevit_xxs" in done.stderr
    assert f"lvexport verify {path}" in done.stdout


def test_nothing_but_the_bundle_is_left(demo_bundle: Path) -> None:
    assert [p.name for p in demo_bundle.parent.iterdir()] == [demo_bundle.name]
    names = {p.name for p in demo_bundle.iterdir()}
    assert {"manifest.json", "golden.safetensors", "SHA256SUMS"} < names
    assert len(names) == 3 + len(CELLS)


@pytest.mark.parametrize(("target", "recipe"), CELLS)
def test_every_cell_is_verified(target: str, recipe: str, bundle: Bundle) -> None:
    (row,) = [a for a in bundle.results if (a.target, a.recipe) == (target, recipe)]
    assert row.status == "ok"
    assert row.route == "torch.export"
    assert row.path == f"{bundle.path.name}-{recipe}.{target}{Path(row.path or '').suffix}"
    verdict = row.verdict
    assert verdict is not None
    assert verdict.samples == 2000
    assert verdict.sqnr_db >= (90 if recipe == "fp32" else 45)
    if recipe == "fp32":
        assert verdict.top1_agreement == 1
        assert verdict.retrieval_agreement == 1
        assert verdict.accuracy == verdict.reference_accuracy
    assert verdict.accuracy is not None
    assert verdict.accuracy > 0.88


def test_the_interval_of_half_precision_is_that_of_core_ml_alone(bundle: Bundle) -> None:
    found = {(a.target, a.recipe): a.verdict.interval for a in bundle.results if a.verdict and a.verdict.interval}
    assert list(found) == [("coreml", "fp16")]
    interval = found["coreml", "fp16"]
    assert interval.samples == BOUND_SAMPLES
    assert interval.overflow is None
    sqnr = interval.sqnr_db
    assert list(sqnr) == ["exact", "rounded", "pessimistic"]
    assert sqnr["exact"] > sqnr["rounded"] > sqnr["pessimistic"] > 30


def test_half_precision_is_smaller(bundle: Bundle) -> None:
    size = {(a.target, a.recipe): a.bytes or 0 for a in bundle.results}
    for target in TARGETS:
        assert size[target, "fp16"] < 0.85 * size[target, "fp32"]


def test_the_manifest_follows_the_published_schema(demo_bundle: Path) -> None:
    published = Path(__file__).parents[2] / "docs" / "manifest.schema.json"
    jsonschema.validate(json.loads((demo_bundle / "manifest.json").read_text()), json.loads(published.read_text()))


def test_checksums_are_those_of_sha256sum(demo_bundle: Path) -> None:
    done = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=demo_bundle, capture_output=True)
    assert done.returncode == 0
    listed = {line.split("  ", 1)[1] for line in (demo_bundle / "SHA256SUMS").read_text().splitlines()}
    there = {p.relative_to(demo_bundle).as_posix() for p in files.files_under(demo_bundle)}
    assert listed == there - {"SHA256SUMS"}


def test_golden_vectors_are_the_originals_answers(demo_bundle: Path) -> None:
    import torch

    import lvexport

    model = lvexport.build("mobilevit_xxs")
    with safe_open(demo_bundle / "golden.safetensors", framework="numpy") as file:
        inputs, outputs = file.get_tensor("input.image"), file.get_tensor("output.logits")
        pictures = file.get_tensor("pictures")
    assert len(inputs) == 64
    np.testing.assert_allclose(pictures.transpose(0, 3, 1, 2) / 255, inputs, atol=1e-6)
    np.testing.assert_allclose(model(torch.from_numpy(inputs)).numpy(), outputs, atol=1e-4)


def test_json_is_the_manifest_and_a_rerun_makes_nothing_anew(demo_bundle: Path, lvexport: Run) -> None:
    before = {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in demo_bundle.rglob("*")}
    typed = ("mobilevit", "--weights", "demo", "--to", ",".join(TARGETS), "--quantize", "fp32,fp16")
    done = lvexport(*typed, "--output", demo_bundle.parent, "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout) == json.loads((demo_bundle / "manifest.json").read_text())
    assert before == {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in demo_bundle.rglob("*")}


def test_a_rerun_replaces_only_what_was_changed(bundle_copy: Path, lvexport: Run) -> None:
    damaged = artifact_of(bundle_copy, "onnx")
    good = damaged.read_bytes()
    damaged.write_bytes(good[:-100])
    other = artifact_of(bundle_copy, "tflite")
    inode = other.stat().st_ino
    (bundle_copy / "notes.txt").write_text("mine")
    done = lvexport("mobilevit", "--to", "onnx,tflite", "--output", bundle_copy.parent)
    assert done.returncode == 0, done.stderr
    assert "onnx fp32: converting" in done.stderr
    assert "tflite fp32: converting" not in done.stderr
    assert damaged.stat().st_size == len(good)
    assert other.stat().st_ino == inode
    assert (bundle_copy / "notes.txt").read_text() == "mine"
    assert len(json.loads((bundle_copy / "manifest.json").read_text())["artifacts"]) == len(CELLS)


def test_a_rerun_mends_checksums_and_golden_vectors(bundle_copy: Path, lvexport: Run) -> None:
    typed = ("mobilevit", "--to", "onnx", "--output", bundle_copy.parent)
    (bundle_copy / "SHA256SUMS").unlink()
    done = lvexport(*typed)
    assert done.returncode == 0
    assert "converting" not in done.stderr
    assert (bundle_copy / "SHA256SUMS").exists()
    (bundle_copy / "golden.safetensors").write_bytes(b"")
    assert lvexport(*typed).returncode == 0
    assert lvexport("verify", artifact_of(bundle_copy, "onnx")).returncode == 0


def test_other_weights_take_the_place_of_the_whole_bundle(tmp_path: Path, lvexport: Run) -> None:
    typed = ("mobilevit", "--imgsz", "64", "--weights", "random", "--samples", "20", "--output", tmp_path)
    assert lvexport(*typed, "--to", "onnx").returncode == 0
    done = lvexport(*typed, "--to", "onnx", "--num-classes", "12", "--quantize", "fp16", "--json")
    rows = json.loads(done.stdout)["artifacts"]
    assert [(r["target"], r["recipe"]) for r in rows] == [("onnx", "fp16")]
    assert not list((tmp_path / "mobilevit_xxs-64").glob("*fp32*"))


@pytest.mark.parametrize("target", TARGETS)
def test_a_scaled_weight_fails_the_verdict_and_is_named(target: str, bundle_copy: Path, lvexport: Run) -> None:
    artifact = artifact_of(bundle_copy, target)
    SCALE[target](artifact)
    record_again(bundle_copy, artifact.name)
    done = lvexport("verify", artifact)
    assert done.returncode == 1, done.stderr
    assert f"{artifact.name} does not compute what the original computes" in done.stderr


def test_a_scaled_weight_spoils_the_bundle_but_no_other_artifact(bundle_copy: Path, lvexport: Run) -> None:
    artifact = artifact_of(bundle_copy, "onnx", "fp16")
    SCALE["onnx"](artifact)
    record_again(bundle_copy, artifact.name)
    done = lvexport("verify", bundle_copy, "--json")
    assert done.returncode == 1, done.stderr
    document = json.loads(done.stdout)
    assert row_of(document, "onnx", "fp16")["status"] == "failed"
    assert {r["status"] for r in document["artifacts"] if r["path"] != artifact.name} == {"ok"}


def test_a_scaled_weight_fails_against_the_model_too(bundle_copy: Path, lvexport: Run, tmp_path: Path) -> None:
    artifact = artifact_of(bundle_copy, "coreml")
    SCALE["coreml"](artifact)
    lone = tmp_path / "lone" / artifact.name
    shutil.copytree(artifact, lone)
    done = lvexport("verify", lone, "--against", "mobilevit", "--samples", "50")
    assert done.returncode == 1, done.stderr
    assert artifact.name in done.stderr


@pytest.mark.parametrize("how", ["flipped", "cut", "emptied"])
@pytest.mark.parametrize("target", TARGETS)
def test_damage_is_an_error(target: str, how: str, bundle_copy: Path, lvexport: Run) -> None:
    artifact = artifact_of(bundle_copy, target)
    victim = a_file_of(artifact)
    content = bytearray(victim.read_bytes())
    if how == "flipped":
        for at in np.random.default_rng(0).integers(0, len(content), 64):
            content[at] ^= 0xFF
        victim.write_bytes(content)
    else:
        victim.write_bytes(content[: len(content) // 2] if how == "cut" else b"")
    done = lvexport("verify", artifact, "--json")
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    assert row_of(json.loads(done.stdout), target)["status"] == "error"


def test_damage_takes_no_other_artifact_down(bundle_copy: Path, lvexport: Run) -> None:
    artifact_of(bundle_copy, "onnx").write_bytes(b"")
    files.remove(artifact_of(bundle_copy, "tflite"))
    done = lvexport("verify", bundle_copy, "--json")
    assert done.returncode == 3, done.stderr
    rows = json.loads(done.stdout)["artifacts"]
    assert sum(r["status"] == "ok" for r in rows) == len(CELLS) - 2
    assert sum(r["status"] == "error" for r in rows) == 2


@pytest.mark.parametrize("how", ["flipped", "cut"])
@pytest.mark.parametrize("target", TARGETS)
def test_damage_that_digests_do_not_show_crashes_nothing(
    target: str, how: str, bundle_copy: Path, lvexport: Run
) -> None:
    """With the digests written anew, only loading and running can tell: an error or a failed verdict, never a crash."""
    artifact = artifact_of(bundle_copy, target)
    victim = a_file_of(artifact)
    content = bytearray(victim.read_bytes())
    if how == "flipped":
        for at in np.random.default_rng(1).integers(0, len(content), 64):
            content[at] ^= 0xFF
    else:
        del content[len(content) // 2 :]
    victim.write_bytes(content)
    record_again(bundle_copy, artifact.name)
    done = lvexport("verify", artifact, "--json")
    assert done.returncode in (1, 3), done.stderr
    assert "Traceback" not in done.stderr
    assert row_of(json.loads(done.stdout), target)["status"] in ("failed", "error")


def test_changed_golden_vectors_are_not_trusted(bundle_copy: Path, lvexport: Run) -> None:
    golden = bundle_copy / "golden.safetensors"
    content = bytearray(golden.read_bytes())
    content[-1] ^= 1
    golden.write_bytes(content)
    done = lvexport("verify", bundle_copy)
    assert done.returncode == 3
    assert "golden vectors" in done.stderr


def test_verify_changes_nothing_on_disk(bundle_copy: Path, lvexport: Run) -> None:
    before = {p: p.stat().st_mtime_ns for p in bundle_copy.rglob("*")}
    done = lvexport("verify", bundle_copy)
    assert done.returncode == 0, done.stderr
    assert before == {p: p.stat().st_mtime_ns for p in bundle_copy.rglob("*")}


def test_a_broken_manifest_is_one_paragraph(bundle_copy: Path, lvexport: Run) -> None:
    (bundle_copy / "manifest.json").write_text("{")
    done = lvexport("verify", bundle_copy)
    assert done.returncode == 2
    assert "cannot be read" in done.stderr


@pytest.mark.parametrize("target", TARGETS)
def test_info_reads_the_artifact(target: str, demo_bundle: Path, lvexport: Run) -> None:
    done = lvexport("info", artifact_of(demo_bundle, target), "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["inputs"][0]["shape"] == [1, 3, 64, 64]
    assert found["outputs"][0]["shape"] == [1, 10]
    # The delegate of ExecuTorch takes the whole network as one operator.
    assert sum(found["operators"].values()) > (0 if target == "executorch" else 10)


def test_bench_times_all_in_turn(demo_bundle: Path, lvexport: Run) -> None:
    paths = [artifact_of(demo_bundle, "tflite"), artifact_of(demo_bundle, "onnx")]
    done = lvexport("bench", *paths, "--rounds", "3", "--runs", "2", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [t["artifact"] for t in found["timings"]] == [p.name for p in paths]
    assert found["timings"][0]["ratio"] == 1
    for timing in found["timings"]:
        assert timing["runs"] == 6
        assert 0 < timing["fastest"] <= timing["median"] <= timing["slowest"]


def test_bench_of_a_damaged_artifact_is_one_paragraph(bundle_copy: Path, lvexport: Run) -> None:
    artifact = artifact_of(bundle_copy, "onnx")
    artifact.write_bytes(b"rubbish")
    done = lvexport("bench", artifact)
    assert done.returncode == 3
    assert "cannot load" in done.stderr
