"""Accuracy of real artifacts beside their original: what is counted, recorded and refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import lvexport
from lvexport import bundle, evaluation, files
from lvexport.bundle import Bundle
from lvexport.converters.contract import Normalisation
from lvexport.errors import UsageError
from lvexport.labelled import Labelled, Picture, evenly
from lvexport.manifest import Resize
from lvexport.models.registry import demo
from lvexport.validation import sample
from tests.conftest import Run

IMAGES = 320


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the demo weights, an ONNX artifact in it."""
    output = tmp_path_factory.mktemp("evaluation")
    found = lvexport.export("mobilevit_xxs", "onnx", weights="demo", samples=8, optimize="none", output=output)
    assert found.exit_code == 0
    return found.path


@pytest.fixture
def good(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / made.name))


@pytest.fixture
def other(good: Path) -> Path:
    """A bundle whose artifact is sound by every digest and has other weights than its original."""
    found = bundle.read(good)
    (row,) = found.results
    path = good / (row.path or "")
    network = onnx.load(path)
    random = np.random.default_rng(0)
    (classifier,) = (w for w in network.graph.initializer if sorted(w.dims) == [10, 320])
    weights = onnx.numpy_helper.to_array(classifier)
    noisy = weights + 4 * weights.std() * random.standard_normal(weights.shape)
    classifier.CopyFrom(onnx.numpy_helper.from_array(noisy.astype(weights.dtype), classifier.name))
    path.unlink()  # a hard link of the one that others are to find sound
    onnx.save(network, path)
    row = row.model_copy(update={"sha256": files.digest(path)})
    bundle.publish(good, found.manifest.model_copy(update={"artifacts": (row,)}), {})
    return good


def right_of(count: int) -> int:
    """How many of the shipped pictures PyTorch has right, counted without the code under test."""
    chosen = evenly(2000, count)
    pictures = sample.shipped(2000)
    model = lvexport.build("mobilevit_xxs", weights="demo")
    grey = sample.fit(pictures.pixels[chosen], 64, "bilinear", 1.0).transpose(0, 3, 1, 2)
    with torch.inference_mode():
        answers = model(torch.from_numpy(grey.copy()).float() / 255).argmax(1).numpy()
    return int((answers == pictures.labels[chosen]).sum())


def test_a_sound_artifact_is_as_good_as_its_original(good: Path) -> None:
    found = lvexport.evaluate(good, "builtin", limit=IMAGES)
    e = found.results[0].evaluation
    assert e is not None
    assert e.images == IMAGES
    assert e.original_top1 == right_of(IMAGES) / IMAGES
    assert abs(e.top1 - e.original_top1) <= 1 / IMAGES
    assert e.top1_interval[0] < e.top1 < e.top1_interval[1]
    assert e.top5 is not None
    assert e.top5 > e.top1
    assert e.p_value == 1
    assert e.data == "Fashion-MNIST, shipped test part"
    assert e.runtime.startswith("ONNX Runtime")
    # It is in the bundle, which is whole.
    assert bundle.read(good).results[0].evaluation == e
    assert bundle.checksums_hold(good)
    # It stays there when the same is exported again, for the artifact is the same.
    again = lvexport.export("mobilevit_xxs", "onnx", weights="demo", samples=8, optimize="none", output=good.parent)
    assert again.results[0].evaluation == e


def test_an_artifact_of_other_weights_is_found_worse(other: Path, lvexport: Run) -> None:
    done = lvexport("eval", other, "--data", "builtin", "--limit", str(IMAGES), "--json", "--quiet")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (row,) = json.loads(done.stdout)["artifacts"]
    e = row["evaluation"]
    assert e["only_original"] > e["only_artifact"] + 20
    assert e["p_value"] < 1e-5
    assert e["top1_interval"][1] < e["original_top1_interval"][0]
    assert round(IMAGES * (e["original_top1"] - e["top1"])) == e["only_original"] - e["only_artifact"]


def test_a_folder_is_measured_as_the_same_pictures_in_an_archive(good: Path, tmp_path: Path, lvexport: Run) -> None:
    pictures = sample.shipped(60)
    names = ["-".join(name.split("/")) for name in pictures.classes]
    for i, (pixels, label) in enumerate(zip(pictures.pixels, pictures.labels, strict=True)):
        path = tmp_path / "clothes" / names[label] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    np.savez(tmp_path / "clothes.npz", pixels=pictures.pixels, labels=pictures.labels)
    done = lvexport("eval", good, "--data", tmp_path / "clothes")
    assert done.returncode == 0, done.stderr
    assert "no difference shown" in done.stdout
    assert "n = 60, clothes" in done.stdout
    assert "60 of 60 images" in done.stderr
    first = bundle.read(good).results[0].evaluation
    second = evaluation.evaluate(good, evaluation.Request(tmp_path / "clothes.npz")).results[0].evaluation
    assert first is not None
    assert second is not None
    assert first.sha256 != second.sha256  # the bytes are others, and so is the order
    apart = {"data", "sha256"}
    assert first.model_dump(exclude=apart) == second.model_dump(exclude=apart)


def test_parts_add_up_to_the_whole(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    request = evaluation.Request("builtin", 50)
    whole = evaluation.evaluate(good, request).results[0].evaluation
    monkeypatch.setattr(evaluation, "FIRST", 20)
    parted = evaluation.evaluate(good, request, lambda what, state: said.append(state)).results[0].evaluation
    assert parted == whole
    assert said[0] == "0 of 50 images"
    assert said[1].startswith("20 of 50 images, about ")
    assert said[-2:] == ["50 of 50 images", "done"]


def test_what_is_held_does_not_grow_with_the_number_of_pictures(tmp_path: Path) -> None:
    held = most = 0  # pictures read since the last part

    def read() -> Iterator[Picture]:
        nonlocal held, most
        for i in range(10_000):
            held += 1
            most = max(most, held)
            yield Picture(np.full((4, 4, 3), i % 256, np.uint8), 0, b"")

    resize = Resize(imgsz=224, interpolation="bilinear", crop_pct=1.0)
    data = Labelled("many", 1500, lambda: (p for _, p in zip(range(1500), read(), strict=False)))
    counts = []
    for part in evaluation.parts(data, resize, Normalisation((0,) * 3, (1,) * 3), tmp_path, lambda stored: None):
        counts.append(part.inputs.count)
        assert part.inputs.path.stat().st_size < evaluation.BYTES + 1000
        held = 0
    assert sum(counts) == 1500
    assert most <= max(counts) <= evaluation.BYTES // (3 * 224**2)
    assert list(tmp_path.iterdir()) == [tmp_path / "pictures.safetensors"]


def test_a_damaged_artifact_is_not_measured(good: Path) -> None:
    artifact = good / (bundle.read(good).results[0].path or "")
    stored = artifact.read_bytes()
    artifact.write_bytes(stored[:-1] + bytes([stored[-1] ^ 1]))
    found: Bundle = lvexport.evaluate(good, limit=8)
    assert found.exit_code == 3
    assert "not the file that was verified" in (found.results[0].error or "")
    assert found.results[0].evaluation is None
    assert bundle.read(good).results[0].status == "ok"  # as the export left it


def test_what_cannot_be_measured_is_refused(good: Path, tmp_path: Path, lvexport: Run) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "pictures" / "Hat").mkdir(parents=True)
    shutil.move(tmp_path / "a.png", tmp_path / "pictures" / "Hat" / "a.png")
    done = lvexport("eval", good, "--data", tmp_path / "pictures")
    assert done.returncode == 2
    assert "'Hat'" in done.stderr
    assert "'T-shirt/top'" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    output = tmp_path / "out"
    done = lvexport(
        "mobilevit", "--weights", "demo", "--to", "onnx", "--output", output, "--eval", tmp_path / "pictures"
    )
    assert done.returncode == 2
    assert "'Hat'" in done.stderr
    assert not output.exists()  # told before anything was built
    artifact = shutil.copy(next(good.glob("*.onnx")), tmp_path / "alone.onnx")
    with pytest.raises(UsageError, match="lies in no bundle"):
        evaluation.evaluate(Path(artifact), evaluation.Request("builtin"))


def test_an_original_of_ones_own_has_to_be_named(good: Path, tmp_path: Path) -> None:
    state = load_file(demo("mobilevit_xxs").weights)  # type: ignore[union-attr]
    save_file(state, tmp_path / "my.safetensors")
    manifest = bundle.read(good).manifest
    changed = {"kind": "file", "path": "my.safetensors", "sha256": files.digest(tmp_path / "my.safetensors")}
    model = manifest.model.model_copy(update={"weights": manifest.model.weights.model_copy(update=changed)})
    bundle.publish(good, manifest.model_copy(update={"model": model}), {})
    data = tmp_path / "two.npz"
    np.savez(data, pixels=np.zeros((2, 28, 28, 3), np.uint8), labels=[0, 1])
    with pytest.raises(UsageError, match="--against MODEL, and --weights PATH"):
        lvexport.evaluate(good, data)
    with pytest.raises(UsageError, match="other weights"):
        lvexport.evaluate(good, data, against="mobilevit_xxs", weights="demo")
    found = lvexport.evaluate(good, data, weights=tmp_path / "my.safetensors")
    assert found.results[0].evaluation is not None
    assert found.results[0].evaluation.images == 2
