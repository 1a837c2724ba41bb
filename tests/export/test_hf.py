"""Models of transformers, in a folder and on a hub. The models are transformers' own, small, with random numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file

import lvexport
from lvexport import hf
from lvexport.capture import realise
from lvexport.errors import UsageError
from lvexport.models.errors import ModelError, Unreachable, WeightsError
from lvexport.models.preprocessing import Preprocessing
from lvexport.overrides import read
from lvexport.processors import own_size, preprocessing
from lvexport.source import resolve
from tests.conftest import Run
from tests.hubs import COMMIT, Hub, serving

transformers = pytest.importorskip("transformers")

PETS = {0: "cat", 1: "dog", 2: "fish"}
# As apple/mobilevit-small has it: no normalisation, 256 of 288 pixels, blue first.
PROCESSOR = {
    "image_processor_type": "MobileViTImageProcessor",
    "do_center_crop": True,
    "do_flip_channel_order": True,
    "do_resize": True,
    "resample": 2,
    "size": {"shortest_edge": 72},
    "crop_size": {"height": 64, "width": 64},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small MobileViT as save_pretrained leaves it, with the statistics that its own pictures give."""
    path = tmp_path_factory.mktemp("hf") / "small.pets"
    torch.manual_seed(0)
    config = transformers.MobileViTConfig(
        image_size=64,
        hidden_sizes=[16, 20, 24],
        neck_hidden_sizes=[8, 8, 12, 16, 20, 24, 32],
        num_attention_heads=2,
        id2label=PETS,
        label2id={name: i for i, name in PETS.items()},
    )
    model = transformers.MobileViTForImageClassification(config)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    model.train()(torch.rand(16, 3, 64, 64))
    model.save_pretrained(path)
    (path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return path


@pytest.fixture
def server(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    files = {f"us/pets/{path.name}": path.read_bytes() for path in folder.iterdir()}
    with serving(files) as found:
        monkeypatch.setenv("HF_ENDPOINT", found.endpoint)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setenv("LVEXPORT_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("no_proxy", "*")
        yield found


def test_what_a_folder_is_can_be_told_without_building_it(folder: Path) -> None:
    source = resolve(f"hf:{folder}")
    assert (source.kind, source.name, source.imgsz, source.num_classes) == ("hf", "small-pets", 64, 3)
    assert source.labels == ("cat", "dog", "fish")
    assert source.preprocessing == Preprocessing(interpolation="bilinear", crop_pct=64 / 72, channels="BGR")
    assert source.weights.kind == "file"
    assert source.digest != resolve(f"hf:{folder}", "random").digest
    assert resolve(f"hf:{folder}", overrides=read(mean="1,1,1")).preprocessing.mean == (1.0, 1.0, 1.0)


def test_the_pictures_are_prepared_as_transformers_prepares_them(folder: Path) -> None:
    """The whole way from a picture to the model's input, against transformers' own image processor."""
    from transformers.models.mobilevit.image_processing_pil_mobilevit import MobileViTImageProcessorPil

    from lvexport.converters.contract import Normalisation
    from lvexport.validation import sample

    pixels = np.random.default_rng(0).integers(0, 256, (1, 90, 72, 3), np.uint8)
    theirs = MobileViTImageProcessorPil.from_pretrained(folder)(pixels[0], return_tensors="np")["pixel_values"]
    p = resolve(f"hf:{folder}").preprocessing
    fitted = sample.fit(pixels, 64, p.interpolation, p.crop_pct)
    np.testing.assert_allclose(sample.normalise(fitted, Normalisation(p.mean, p.std, p.channels)), theirs, atol=1e-6)


def test_it_answers_as_transformers_does(folder: Path) -> None:
    built = realise(resolve(f"hf:{folder}"))
    x = torch.rand(2, 3, 64, 64)
    theirs = transformers.MobileViTForImageClassification.from_pretrained(folder).eval()
    assert torch.equal(built.model(x), theirs(x).logits)
    assert built.source.layout == "transformers"


def test_a_folder_becomes_a_verified_bundle(folder: Path, lvexport: Run, tmp_path: Path) -> None:
    line = (f"hf:./{folder.name}", "--to", "onnx", "--samples", "30", "--output", tmp_path, "--json")
    done = lvexport(*line, cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (tmp_path / "small-pets-64").is_dir()
    assert document["model"]["source"] == "hf:small.pets"
    assert document["model"]["weights"]["layout"] == "transformers"
    assert document["input"]["channels"] == "BGR"
    assert document["labels"] == ["cat", "dog", "fish"]
    golden = load_file(tmp_path / "small-pets-64" / "golden.safetensors")
    blue = golden["pictures"][..., 2].astype(np.float32) / 255
    np.testing.assert_allclose(golden["input.image"][:, 0], blue, atol=1e-6)
    again = lvexport("verify", tmp_path / "small-pets-64", "--against", f"hf:{folder}", "--samples", "20")
    assert again.returncode == 0, again.stderr


def test_random_weights_and_other_classes(folder: Path) -> None:
    built = realise(resolve(f"hf:{folder}", "random", 7))
    assert built.model(torch.rand(1, 3, 64, 64)).shape == (1, 7)
    assert built.source.labels == ()
    assert torch.equal(built.model(torch.ones(1, 3, 64, 64)), realise(built.source).model(torch.ones(1, 3, 64, 64)))
    with pytest.raises(UsageError, match="knows 3 classes, not 7"):
        resolve(f"hf:{folder}", num_classes=7)


def test_a_checkpoint_of_ones_own(folder: Path, tmp_path: Path) -> None:
    config = transformers.AutoConfig.from_pretrained(folder)
    config.num_labels = 5
    model = transformers.MobileViTForImageClassification(config).eval()
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "mine.safetensors")
    built = realise(resolve(f"hf:{folder}", str(tmp_path / "mine.safetensors"), 5))
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(built.model(x), model(x).logits)


def test_a_model_without_a_classifier_is_refused(folder: Path, tmp_path: Path) -> None:
    config = transformers.AutoConfig.from_pretrained(folder)
    transformers.MobileViTModel(config).save_pretrained(tmp_path / "trunk")
    with pytest.raises(UsageError, match="not trained as an image classifier"):
        realise(resolve(f"hf:{tmp_path / 'trunk'}"))


def test_code_that_comes_with_a_model_is_never_run(folder: Path, tmp_path: Path) -> None:
    odd = tmp_path / "odd"
    odd.mkdir()
    auto = {"AutoConfig": "evil.C", "AutoModelForImageClassification": "evil.M"}
    (odd / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": auto}))
    (odd / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    save_file({"a": torch.ones(1)}, odd / "model.safetensors")
    with pytest.raises(UsageError, match="never run"):
        realise(resolve(f"hf:{odd}"))
    assert not (tmp_path / "ran").exists()


class Payload:
    """Something that runs when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return open, (str(self.target), "w")


def test_a_pickle_that_runs_code_is_refused(folder: Path, tmp_path: Path) -> None:
    odd = tmp_path / "odd"
    odd.mkdir()
    (odd / "config.json").write_bytes((folder / "config.json").read_bytes())
    torch.save({"a": Payload(tmp_path / "ran")}, odd / "pytorch_model.bin")
    with pytest.raises(UsageError, match="never run"):
        realise(resolve(f"hf:{odd}"))
    assert not (tmp_path / "ran").exists()


def test_from_the_hub_through_the_cache(server: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = resolve("hf:us/pets")
    assert source.name == "us-pets"
    assert (source.weights.kind, source.weights.repo, source.weights.revision) == ("hub", "us/pets", COMMIT)
    x = torch.rand(1, 3, 64, 64)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert torch.equal(realise(resolve("hf:us/pets")).model(x), realise(resolve(f"hf:{folder}")).model(x))
    assert resolve(f"hf:us/pets@{COMMIT}").digest == source.digest
    assert len(server.transfers("model.safetensors")) == 1
    with pytest.raises(Unreachable, match="HF_HUB_OFFLINE"):
        resolve("hf:us/others")


def test_the_manifest_of_a_model_from_the_hub_says_which(server: Hub, tmp_path: Path) -> None:
    made = lvexport.export("hf:us/pets", to="onnx", samples=20, output=tmp_path / "dist")
    assert made.exit_code == 0
    assert made.manifest.model.source == "hf:us/pets"
    weights = made.manifest.model.weights
    assert (weights.kind, weights.repo, weights.revision) == ("hub", "us/pets", COMMIT)


def test_what_cannot_be_is_told_before_the_weights_are_downloaded(server: Hub) -> None:
    for said in ({"num_classes": 7}, {"overrides": read(labels=["a", "b"])}, {"imgsz": 0}):
        with pytest.raises((UsageError, ModelError)):
            resolve("hf:us/pets", **said)  # type: ignore[arg-type]
    assert not server.transfers("model.safetensors")


REFUSED = [
    ("hf:", "names no model"),
    ("hf:a/b/c", "names no model"),
    ("hf:./no/such", r"no config\.json"),
    ("hf:us/nothing", "no model that can be had"),
]


@pytest.mark.parametrize(("spec", "words"), REFUSED)
def test_what_is_no_model_is_refused(spec: str, words: str, server: Hub) -> None:
    with pytest.raises(UsageError, match=words):
        resolve(spec)


def test_folders_that_hold_something_else_are_refused(folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"architecture": "mobilevit_s"}')
    with pytest.raises(UsageError, match="Type timm:"):
        resolve(f"hf:{tmp_path}")
    config.write_text("{}")
    with pytest.raises(UsageError, match="no model_type"):
        resolve(f"hf:{tmp_path}")
    config.write_text("{")
    with pytest.raises(UsageError, match="no JSON"):
        resolve(f"hf:{tmp_path}")
    config.write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(WeightsError, match="neither in"):
        resolve(f"hf:{tmp_path}")


def test_without_transformers_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'lvexport\[hub\]'"):
        resolve(f"hf:{folder}")


# Configurations as they stand on the hub, each with what it says.
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
PROCESSORS: list[tuple[dict[str, Any], int, Preprocessing]] = [
    (  # ViT
        {"do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2, "size": 224},
        224,
        Preprocessing((0.5,) * 3, (0.5,) * 3, "bilinear", 1.0),  # type: ignore[arg-type]
    ),
    (  # ConvNeXt
        {"crop_pct": 0.875, "do_normalize": True, "resample": 3, "size": {"shortest_edge": 224}, **IMAGENET},
        224,
        Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic", 0.875),
    ),
    (  # an early MobileViT
        {
            "crop_size": 256,
            "do_flip_channels": True,
            "feature_extractor_type": "MobileViTFeatureExtractor",
            "size": 288,
        },
        256,
        Preprocessing(crop_pct=256 / 288, channels="BGR"),
    ),
    (  # not normalised
        {"crop_size": {"height": 224, "width": 224}, "do_normalize": False, "size": {"shortest_edge": 256}},
        224,
        Preprocessing(crop_pct=224 / 256),
    ),
]


@pytest.mark.parametrize(("processor", "imgsz", "expected"), PROCESSORS, ids=["vit", "convnext", "mobilevit", "plain"])
def test_processors_as_they_are_on_the_hub(processor: dict[str, Any], imgsz: int, expected: Preprocessing) -> None:
    assert own_size({}, processor) == imgsz
    assert preprocessing(processor, imgsz, None) == expected


def test_another_scale_of_the_pixels_is_taken_into_mean_and_std() -> None:
    """EfficientNet's processor: x/127.5 - 1, then mean and standard deviation of ImageNet."""
    found = preprocessing({"rescale_factor": 1 / 127.5, "rescale_offset": True, **IMAGENET}, 224, None)
    x = np.array([0.0, 0.25, 1.0])
    theirs = (x * 255 / 127.5 - 1 - 0.485) / 0.229
    np.testing.assert_allclose((x - found.mean[0]) / found.std[0], theirs, atol=1e-6)


def test_unknown_resampling_has_to_be_chosen() -> None:
    with pytest.raises(UsageError, match="--interpolation bilinear"):
        preprocessing({"resample": 0}, 224, None)
    assert preprocessing({"resample": 0}, 224, "bicubic").interpolation == "bicubic"


def test_names_for_files_are_plain() -> None:
    assert hf.plain_name("apple/mobilevit-small") == "apple-mobilevit-small"
    assert hf.plain_name("../..") == "model"
