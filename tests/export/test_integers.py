"""Artifacts in which integers compute layers: the verdict on them, and what it finds in broken ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import lvexport
from lvexport import bundle, files, front_picture, pipeline
from lvexport.api import in_memory
from lvexport.errors import UsageError
from lvexport.manifest import ArtifactInfo, Manifest
from lvexport.plan import Plan, cells
from lvexport.validation.integers.layers import Layer
from tests.integer_faults import FAULTS, Fault, assert_named, with_faults, wrong_zero_point
from tests.networks import SIDE, Dense, small, with_outliers

TARGETS = ("coreai", "coreml", "executorch", "executorch:coreml", "onnx", "tflite")
WIDE_TARGETS = ("onnx", "tflite", "tflm")
NARROW_TARGETS = ("coreai", "coreml", "executorch:coreml", "tflite")
Broken = dict[str, tuple[ArtifactInfo, Layer]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> lvexport.Bundle:
    """A checkpoint with channels over three decades, as all targets have it."""
    out = tmp_path_factory.mktemp("integers")
    network = with_outliers(small(), 3)
    return lvexport.export(network, TARGETS, ["mixed"], imgsz=SIDE, samples=300, output=out, name="small")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> lvexport.Bundle:
    """Activations of 16 bits."""
    out = tmp_path_factory.mktemp("wide")
    return lvexport.export(small(), WIDE_TARGETS, ["w8a16"], imgsz=SIDE, samples=100, output=out, name="small")


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> lvexport.Bundle:
    """Weights of 4 bits."""
    out = tmp_path_factory.mktemp("narrow")
    network = Dense().eval()
    return lvexport.export(
        network, NARROW_TARGETS, ["w4a8"], imgsz=SIDE, samples=100, output=out, name="dense", min_ios="18"
    )


def row(bundle: lvexport.Bundle, target: str) -> ArtifactInfo:
    return next(a for a in bundle.results if a.target == target)


@pytest.mark.parametrize("target", TARGETS)
def test_integers_compute_what_they_should(made: lvexport.Bundle, target: str) -> None:
    found = row(made, target)
    assert found.status == "ok", found.error
    assert found.verdict is not None
    assert found.verdict.retrieval_agreement >= 0.95
    compression, quantization = found.verdict.compression, found.quantization
    assert compression is not None
    assert compression.layers is not None
    assert (compression.layers.found, compression.layers.wrong) == (compression.layers.expected, {})
    assert quantization is not None
    assert compression.layers.expected == quantization.layers
    assert quantization.weights > 0.85
    assert quantization.within
    assert quantization.equalised > 100
    assert quantization.calibration.count > 0


def test_sigmoids_between_layers_are_of_integers(made: lvexport.Bundle) -> None:
    """Also in the files: both SiLU between two layers."""
    from ai_edge_litert.interpreter import Interpreter

    from lvexport.validation import pte
    from lvexport.validation.integers.executorch import _Graph

    counts = {target: row(made, target).quantization.transitions for target in TARGETS}  # type: ignore[union-attr]
    assert counts["tflite"] == counts["executorch"] < counts["coreml"]
    loaded = Interpreter(str(made.path / str(row(made, "tflite").path)))
    loaded.allocate_tensors()
    made_by = {int(op["outputs"][0]): op["op_name"] for op in loaded._get_ops_details()}
    types = {t["index"]: t["dtype"] for t in loaded.get_tensor_details()}
    assert [types[i] for i, name in made_by.items() if name == "LOGISTIC"] == [np.int8, np.int8]
    (delegate,) = pte.read(made.path / str(row(made, "executorch").path)).delegates("XnnpackBackend")
    graph = _Graph(delegate, {})
    sigmoids = [n["xnode_union"] for n in graph.nodes if n["xnode_union_type"] == "XNNSigmoid"]
    assert [graph.values[s["output_id"]]["xvalue_union_type"] for s in sigmoids] == ["XNNQuantizedTensorValue"] * 2


@pytest.mark.parametrize("target", TARGETS)
def test_the_choice_is_measured_beside_others(made: lvexport.Bundle, target: str) -> None:
    found = row(made, target)
    assert found.quantization is not None
    assert found.quantization.front is not None
    assert found.verdict is not None
    front, kept = found.quantization.front, len(found.quantization.floating)
    assert not front.left_out
    assert kept > 0, "all layers in integers keep the budget, which this network was chosen not to"
    assert [(p.recipe, p.kept, p.chosen) for p in front.points] == [
        ("fp32", None, False),
        ("mixed", kept, True),
        ("mixed", 0, False),
    ]
    single, chosen, integers = front.points
    assert (chosen.bytes, chosen.sha256, chosen.sqnr_db) == (found.bytes, found.sha256, found.verdict.sqnr_db)
    assert len({p.sha256 for p in front.points}) == 3
    assert integers.weights > chosen.weights > single.weights == 0
    assert single.bytes > chosen.bytes
    assert single.sqnr_db > 100 > chosen.sqnr_db > integers.sqnr_db
    assert single.on_front
    assert chosen.retrieval_agreement >= 0.95
    assert chosen.retrieval_agreement > integers.retrieval_agreement
    if "interpreter" in front.runtime or (target == "coreai" and "macOS" not in front.runtime):
        assert front.untimed is not None
        assert {p.latency for p in front.points} == {None}
    else:
        assert all(p.latency is not None and 0 < p.latency.quartiles[0] <= p.latency.median for p in front.points)


def test_a_rerun_makes_nothing_and_mends_the_picture(made: lvexport.Bundle) -> None:
    def inodes(found: lvexport.Bundle) -> list[int]:
        return [p.stat().st_ino for a in found.results for p in files.files_under(found.path / str(a.path))]

    picture, before = made.manifest.front, inodes(made)
    assert picture is not None
    drawn = made.path / picture.path
    assert files.digest(drawn) == picture.sha256
    assert picture.path in bundle.recorded_checksums(made.path)
    drawn.unlink()
    said: list[str] = []
    again = lvexport.export(
        with_outliers(small(), 3),
        TARGETS,
        ["mixed"],
        imgsz=SIDE,
        samples=300,
        output=made.path.parent,
        name="small",
        report=lambda what, state: said.append(state),
    )
    assert said == ["running", "done"]  # of the capture, which tells whether the network is the same
    assert again.manifest == made.manifest
    assert inodes(again) == before
    assert files.digest(drawn) == picture.sha256


def test_what_was_not_measured_when_a_run_was_killed_is_made_again(
    made: lvexport.Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, found = tmp_path / "bundle", row(made, "onnx")
    shutil.copytree(made.path, folder)
    plan = Plan(in_memory(small(), SIDE, "small"), cells(["onnx"], ["mixed"], {}), tmp_path)
    monkeypatch.setattr(pipeline, "key", lambda plan, cell, source: found.key)  # as if all that it follows from were so
    assert list(pipeline.reusable(folder, plan, "source").values()) == [found]
    assert found.quantization is not None
    without = found.model_copy(update={"quantization": found.quantization.model_copy(update={"front": None})})
    manifest = made.manifest.model_copy(update={"artifacts": (without,)})
    (folder / bundle.MANIFEST).write_text(bundle.document(manifest))
    assert not pipeline.reusable(folder, plan, "source")


def test_manifests_without_fronts_are_read(made: lvexport.Bundle) -> None:
    document = json.loads(bundle.document(made.manifest)) | {"schema_version": "1.4"}
    del document["front"]
    for artifact in document["artifacts"]:
        del artifact["quantization"]["front"]
    old = Manifest.model_validate(document)
    assert old.front is None
    assert front_picture.with_picture(old, made.path) == (old, {})


@pytest.fixture(scope="module", params=FAULTS)
def broken(request: pytest.FixtureRequest, made: lvexport.Bundle, tmp_path_factory: pytest.TempPathFactory) -> Broken:
    """All targets' artifacts with one fault, verified in one run."""
    return with_faults(made, TARGETS, request.param, tmp_path_factory.mktemp("broken"))


@pytest.mark.parametrize("target", TARGETS)
def test_a_fault_in_one_layer_is_named(broken: Broken, target: str) -> None:
    assert_named(*broken[target])


@pytest.mark.parametrize("target", WIDE_TARGETS)
def test_sixteen_bits_are_nearer_than_eight_can_be(wide: lvexport.Bundle, target: str) -> None:
    found = row(wide, target)
    assert found.status == "ok", found.error
    assert found.verdict is not None
    compression = found.verdict.compression
    assert compression is not None
    assert compression.layers is not None
    assert (compression.layers.found, compression.layers.wrong) == (compression.layers.expected, {})
    assert compression.network_db > 41  # what weights of 8 bits leave
    assert compression.sqnr_db > 75  # a number at half a step of 16 bits, now and then; of 8 bits, some 40 dB


def test_kernels_of_sixteen_bits_compute_the_layers(wide: lvexport.Bundle) -> None:
    from ai_edge_litert import schema_py_generated as schema

    found = row(wide, "tflite")
    assert found.path is not None
    graph = schema.ModelT.InitFromPackedBuf((wide.path / found.path).read_bytes(), 0).subgraphs[0]
    kinds = schema.TensorType
    given = [[graph.tensors[i].type for i in (*o.inputs, *o.outputs)] for o in graph.operators]
    whole = [kinds.INT16, kinds.INT8, kinds.INT64, kinds.INT16]
    assert found.quantization is not None
    assert given.count(whole) == found.quantization.layers


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_one_layer_of_sixteen_bits_is_named(wide: lvexport.Bundle, fault: Fault, tmp_path: Path) -> None:
    found = with_faults(wide, WIDE_TARGETS, fault, tmp_path)
    if fault is wrong_zero_point:  # which LiteRT's kernels do not take
        judged, _ = found.pop("tflite")
        assert judged.status == "error"
        assert judged.error is not None
        assert "zero_point" in judged.error
    for judged, layer in found.values():
        assert_named(judged, layer)


@pytest.mark.parametrize("target", NARROW_TARGETS)
def test_weights_of_four_bits_are_multiplied_as_they_should(narrow: lvexport.Bundle, target: str) -> None:
    found = row(narrow, target)
    assert found.status == "ok", found.error
    assert found.verdict is not None
    compression, quantization = found.verdict.compression, found.quantization
    assert compression is not None
    assert compression.layers is not None
    assert (compression.layers.found, compression.layers.wrong) == (compression.layers.expected, {})
    assert quantization is not None
    assert 0.15 < quantization.narrow < quantization.weights
    assert quantization.within


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_beside_weights_of_four_bits_is_named(narrow: lvexport.Bundle, fault: Fault, tmp_path: Path) -> None:
    for judged, layer in with_faults(narrow, NARROW_TARGETS, fault, tmp_path).values():
        assert_named(judged, layer)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("executorch", "XNNPACK has no type for 16-bit activations"),
        ("coreml", "quantize makes 8-bit integers and no others"),
        ("coreai", "quantize makes integers of 8 bits at most"),
    ],
)
def test_targets_without_sixteen_bits_say_why(target: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        lvexport.export(small(), target, "w8a16", imgsz=SIDE, output=tmp_path, name="small")


def test_a_bundle_is_verified_again(made: lvexport.Bundle) -> None:
    assert {a.status for a in lvexport.verify(made.path).results} == {"ok"}


def test_eight_bit_inputs_and_outputs_stand_for_numbers(tmp_path: Path) -> None:
    bundle = lvexport.export(
        small(), "tflite", "w8a8", imgsz=SIDE, samples=200, output=tmp_path, name="small", int8_io="yes"
    )
    (found,) = bundle.results
    assert found.verdict is not None
    assert found.verdict.compression is not None
    assert found.verdict.compression.layers is not None
    assert not found.verdict.compression.layers.wrong
    assert found.verdict.compression.sqnr_db >= found.verdict.compression.threshold_db
    assert found.path is not None
    from ai_edge_litert.interpreter import Interpreter

    loaded = Interpreter(str(bundle.path / found.path))
    assert loaded.get_input_details()[0]["dtype"] == np.int8
    assert loaded.get_output_details()[0]["dtype"] == np.int8


def test_calibration_may_be_arrays(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    arrays = [random.random((1, 3, SIDE, SIDE), np.float32) * 0.01 for _ in range(4)]
    bundle = lvexport.export(
        small(), "onnx", "w8a8", imgsz=SIDE, samples=200, output=tmp_path, name="small", calibration=arrays
    )
    (found,) = bundle.results
    assert found.quantization is not None
    assert found.quantization.calibration.count == 4
    assert found.quantization.exceeded  # far darker than what the verdict is taken over


@pytest.mark.parametrize(
    ("name", "words"), [("nothing", "no calibration inputs"), ("empty", "no picture"), ("wrong.npz", "read as arrays")]
)
def test_calibration_that_is_none_is_refused(name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "wrong.npz").write_bytes(b"no archive")
    with pytest.raises(UsageError, match=words):
        lvexport.export(
            small(), "onnx", "w8a8", imgsz=SIDE, output=tmp_path / "out", name="small", calibration=tmp_path / name
        )
