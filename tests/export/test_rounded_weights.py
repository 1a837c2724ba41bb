"""The main job with weights in integers: what is verified of the artifacts, and what is caught in them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import onnx
import pytest

from lvexport import bundle as bundles
from tests.conftest import Run
from tests.faults import is_demo, record_again
from tests.networks import SIDE
from tests.rounded_faults import FAULTS, few_pictures

TARGETS = ("coreml", "coreai", "onnx")  # in both recipes
DYNAMIC = ("tflite", "executorch")  # in both, with activations rounded as they come
MODELS: dict[str, tuple[str | Path, ...]] = {
    "small": (f"{Path(__file__).parents[1] / 'networks.py'}:wide",),
    "demo": ("mobilevit", "--weights", "demo"),
}


@pytest.fixture(scope="module", params=["small", pytest.param("demo", marks=pytest.mark.slow)])
def made(request: pytest.FixtureRequest, lvexport: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network in integers, or the demo: fitted and judged over so few images that no recipe loses too much."""
    folder = tmp_path_factory.mktemp("rounded")
    output, calibration = folder / "dist", few_pictures(folder)
    size = () if request.param == "demo" else ("--imgsz", str(SIDE))
    typed = (*MODELS[request.param], *size, "--samples", "20", "--calib", calibration, "--output", output)
    for choice in (
        ("--to", ",".join((*TARGETS, *DYNAMIC)), "--quantize", "w8,w4"),
        ("--to", "coreml", "--quantize", "p4", "--min-ios", "16"),
    ):
        done = lvexport(*typed, *choice)
        assert done.returncode == 0, done.stderr
        assert "as rounded" in done.stdout
    (bundle,) = output.iterdir()
    return bundle


def original(made: Path) -> tuple[str | Path, ...]:
    return MODELS["demo" if is_demo(made) else "small"]


def rows(made: Path) -> dict[tuple[str, str], Any]:
    manifest = json.loads((made / bundles.MANIFEST).read_text())
    return {(row["target"], row["recipe"]): row for row in manifest["artifacts"]}


def test_both_questions_are_answered(made: Path) -> None:
    for (target, _), row in rows(made).items():
        verdict, compression = row["verdict"], row["verdict"]["compression"]
        layers = 73 if is_demo(made) else 10
        assert row["status"] == "ok"
        assert compression["within_budget"]
        assert compression["layers"] == {"expected": layers, "found": layers, "wrong": {}}
        # Arithmetic is half precision in Core ML's packages, and single elsewhere.
        if target in DYNAMIC:
            assert 25 < compression["threshold_db"] < 60
        else:
            coreml, others = (43.6, 88.7) if is_demo(made) else (45.2, 90.3)
            assert compression["threshold_db"] == pytest.approx(coreml if target == "coreml" else others, abs=0.1)
        assert compression["sqnr_db"] >= compression["threshold_db"]
        assert target in DYNAMIC or verdict["sqnr_db"] == pytest.approx(compression["network_db"], abs=2)
        assert verdict["sqnr_db"] >= verdict["threshold_db"]


def test_four_bits_take_less_than_eight(made: Path) -> None:
    found = rows(made)
    for target in (*TARGETS, *DYNAMIC):
        eight, four = found[target, "w8"], found[target, "w4"]
        # What a runtime that computes in integers has no 4-bit kernel for is 8 bits in both.
        assert four["bytes"] < (0.8 if target in DYNAMIC else 0.75) * eight["bytes"]
        if is_demo(made):  # of the small network most of what is lost, layers lose that are 8 bits in both
            assert eight["verdict"]["sqnr_db"] > four["verdict"]["sqnr_db"] + (8 if target in DYNAMIC else 11)


CELLS = [cell for cell in FAULTS if cell[0] in (*TARGETS, *DYNAMIC)]


@pytest.fixture(scope="module", params=sorted({fault for cell in CELLS for fault in FAULTS[cell]}))
def broken(
    request: pytest.FixtureRequest, made: Path, tmp_path_factory: pytest.TempPathFactory, lvexport: Run
) -> tuple[str, CompletedProcess[str]]:
    """A fault, and what was found of a bundle in which all artifacts that it can be planted in have it."""
    bundle = tmp_path_factory.mktemp("broken") / made.name
    shutil.copytree(made, bundle)
    for cell in (c for c in CELLS if request.param in FAULTS[c]):
        artifact = bundle / rows(made)[cell]["path"]
        FAULTS[cell][request.param](artifact)
        record_again(bundle, artifact.name)
    return request.param, lvexport("verify", bundle)


@pytest.mark.parametrize(("target", "recipe"), CELLS)
def test_a_fault_of_the_integers_is_caught(
    target: str, recipe: str, made: Path, broken: tuple[str, CompletedProcess[str]]
) -> None:
    fault, done = broken
    name = rows(made)[target, recipe]["path"]
    assert done.returncode == 1, done.stderr
    said = f"{name} does not hold the integers that the network was rounded to" in done.stderr
    assert said == (fault in FAULTS[target, recipe]), done.stderr


def test_what_was_lost_over_many_images_is_not_forgotten(made: Path, tmp_path: Path, lvexport: Run) -> None:
    bundle = tmp_path / made.name
    shutil.copytree(made, bundle)
    path = bundle / bundles.MANIFEST
    manifest = json.loads(path.read_text())
    (row,) = (a for a in manifest["artifacts"] if (a["target"], a["recipe"]) == ("coreml", "w4"))
    row["verdict"]["compression"]["within_budget"] = False
    path.write_text(json.dumps(manifest))
    done = lvexport("verify", bundle / row["path"])
    assert done.returncode == 1, done.stderr
    assert "lost too much when it was made: over 20 inputs" in done.stderr


def test_against_the_model_itself(made: Path, tmp_path: Path, lvexport: Run) -> None:
    name = rows(made)["coreai", "w8"]["path"]
    shutil.copytree(made / name, tmp_path / name)
    typed = ("--against", *original(made), "--samples", "8", "--json")
    done = lvexport("verify", tmp_path / name, *typed)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["artifacts"]
    assert row["verdict"]["compression"]["sqnr_db"] > 100
    assert lvexport("verify", tmp_path / name, *typed, "--recipe", "fp32").returncode == 1


def test_what_others_rounded_is_judged_by_what_it_lost(demo_bundle: Path, tmp_path: Path, lvexport: Run) -> None:
    """ONNX Runtime's own quantizer rounds activations as they come, to a scale for each whole tensor of weights."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    plain, foreign = demo_bundle / rows(demo_bundle)["onnx", "fp32"]["path"], tmp_path / "foreign.onnx"
    quantize_dynamic(plain, foreign, op_types_to_quantize=["MatMul"], weight_type=QuantType.QInt8)
    typed = ("verify", foreign, "--against", "mobilevit", "--weights", "demo", "--samples", "40", "--recipe", "w8")
    done = lvexport(*typed)
    assert done.returncode == 1
    assert "If another tool rounded it, --max-drop 1 judges what that costs." in done.stderr.replace("\n", " ")
    done = lvexport(*typed, "--max-drop", "5", "--json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["artifacts"]
    found = row["verdict"]["compression"]
    assert (found["sqnr_db"], found["max_drop"], row["verdict"]["threshold_db"]) == (None, 0.05, None)
    assert row["verdict"]["sqnr_db"] < 60


def test_integers_of_which_nothing_is_known_are_judged_by_what_they_lost(
    made: Path, tmp_path: Path, lvexport: Run
) -> None:
    name = rows(made)["onnx", "w8"]["path"]
    typed = ("--against", *original(made), "--samples", "40", "--recipe", "w8a8")
    shutil.copyfile(made / name, tmp_path / name)
    done = lvexport("verify", tmp_path / name, *typed)
    assert done.returncode == 0, done.stderr
    assert "how it was rounded is not known, so its integers were not compared" in done.stdout.replace("\n", " ")
    model = onnx.load(tmp_path / name)
    for tensor in (t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8):
        tensor.raw_data = tensor.raw_data[1:] + tensor.raw_data[:1]  # each integer in its neighbour's place
    onnx.save(model, tmp_path / name)
    done = lvexport("verify", tmp_path / name, *typed)
    assert done.returncode == 1
    assert "lose too much over 40 inputs: retrieval agreement" in done.stderr.replace("\n", " ")


def test_a_bundle_says_itself_what_may_be_lost(made: Path, lvexport: Run) -> None:
    done = lvexport("verify", made, "--max-drop", "5")
    assert done.returncode == 2
    assert "--max-drop is for an artifact that lies in no bundle" in done.stderr.replace("\n", " ")


def test_what_has_no_integers_has_no_budget(tmp_path: Path, lvexport: Run) -> None:
    (tmp_path / "model.onnx").touch()
    done = lvexport("verify", tmp_path / "model.onnx", "--against", "mobilevit", "--max-drop", "1")
    assert done.returncode == 2
    assert "model.onnx is judged as fp32, which has none. Say what it is with --recipe (w8," in done.stderr.replace(
        "\n", " "
    )


def test_a_later_run_keeps_what_integers_are_judged_by(made: Path, tmp_path: Path, lvexport: Run) -> None:
    shutil.copytree(made, tmp_path / made.name)
    size = () if is_demo(made) else ("--imgsz", str(SIDE))
    typed = (*original(made), *size, "--to", "onnx", "--samples", "8", "--output", tmp_path)
    assert lvexport(*typed).returncode == 0
    bundle = tmp_path / made.name
    done = lvexport("verify", bundle / rows(bundle)["coreai", "w4"]["path"])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (
            ("--to", "tflite", "--quantize", "w4", "--activations", "float"),
            "tflite w4 needs --activations dynamic, not",
        ),
        (("--to", "tflite", "--quantize", "w8a16", "--int8-io"), "tflite w8a16 needs --int8-io no, not yes"),
        (("--to", "executorch", "--quantize", "w8a16"), "executorch has no recipe w8a16: XNNPACK has no type"),
        (("--to", "coreml", "--quantize", "w4", "--min-ios", "16"), "coreml w4 needs --min-ios 18, not 16"),
        (("--to", "coreml", "--quantize", "w4", "--min-ios", "16"), "take 16: fp32, fp16, w8, p4"),
        (("--to", "tflite", "--quantize", "p4"), "tflite has no recipe p4: its format has no constants that"),
        (("--to", "coreai", "--quantize", "w8a16"), "coreai has no recipe w8a16: Core AI's operation quantize makes"),
    ],
)
def test_what_a_target_cannot_do_is_refused(typed: tuple[str, ...], words: str, lvexport: Run) -> None:
    done = lvexport("mobilevit", "--weights", "demo", *typed)
    assert done.returncode == 2
    assert words in done.stderr
