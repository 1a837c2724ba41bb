"""The Python interface."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import lvexport
from lvexport.errors import UnknownName
from lvexport.source import resolve
from tests.examples.own_model import build
from tests.models.test_layouts import ml_cvnets


def test_a_module_in_memory(tmp_path: Path) -> None:
    bundle = lvexport.export(build(), to="onnx", imgsz=32, output=tmp_path, name="mine", samples=30)
    assert bundle.path == tmp_path / "mine-32"
    (result,) = bundle.results
    assert result.status == "ok"
    assert result.verdict is not None
    assert result.verdict.samples == 30
    assert result.verdict.accuracy is None
    assert bundle.manifest.model.weights.kind == "own"
    again = lvexport.verify(bundle.path)
    assert again.results[0].status == "ok"
    assert again.results[0].verdict is not None
    assert again.results[0].verdict.samples == 30


def test_a_built_network_keeps_its_name_and_preprocessing(tmp_path: Path) -> None:
    model = lvexport.build("mobilevit_xxs")
    bundle = lvexport.export(model, to=["onnx"], quantize=["fp16"], output=tmp_path, samples=20)
    assert bundle.path.name == "mobilevit_xxs-demo-64"
    assert bundle.manifest.labels is not None
    assert bundle.results[0].verdict is not None
    assert bundle.results[0].verdict.passed


def test_a_layout_brings_its_channel_order_and_what_is_made_of_it_is_kept(tmp_path: Path) -> None:
    """MobileViT as ml-cvnets spells it takes blue first; that is known only once the file has been read."""
    original = lvexport.build("mobilevit_xxs", weights="random", num_classes=4)
    torch.save(ml_cvnets(original.state_dict()), tmp_path / "cvnets.pt")

    def made() -> tuple[lvexport.Bundle, int]:
        weights = tmp_path / "cvnets.pt"
        bundle = lvexport.export("mobilevit", "onnx", weights=weights, num_classes=4, imgsz=64, output=tmp_path)
        return bundle, (bundle.path / (bundle.results[0].path or "")).stat().st_ino

    (first, inode), (second, again) = made(), made()
    assert inode == again
    for bundle in (first, second):
        assert bundle.exit_code == 0
        assert bundle.manifest.input.channels == "BGR"
        assert bundle.manifest.model.weights.layout == "ml-cvnets"
    assert lvexport.verify(first.path).exit_code == 0


def test_own_code_is_made_anew_only_when_what_it_computes_changes(tmp_path: Path) -> None:
    """The numbers stay the same in the second version; the computation does not."""
    script = tmp_path / "mine.py"
    text = (
        "import torch\nclass Mine(torch.nn.Module):\n"
        "    def forward(self, x):\n        return x.mean((2, 3)).{}()\nmodel = Mine\n"
    )

    def made(function: str) -> tuple[str | None, int]:
        script.write_text(text.format(function))
        (result,) = lvexport.export(f"{script}:model", to="onnx", imgsz=16, output=tmp_path, samples=10).results
        path = tmp_path / "mine-16" / (result.path or "")
        return result.sha256, path.stat().st_ino

    first, second, third = made("exp"), made("exp"), made("tanh")
    assert first == second
    assert third[0] != first[0]


def test_two_models_of_a_script_are_two_bundles(tmp_path: Path) -> None:
    script = tmp_path / "mine.py"
    script.write_text("import torch\nsmall = large = model = lambda: torch.nn.Linear(4, 4)\n")
    named = [resolve(f"{script}{factory}", imgsz=4).bundle_name for factory in ("", ":model", ":small", ":large")]
    assert named == ["mine-4", "mine-4", "mine-small-4", "mine-large-4"]


def test_an_original_that_answers_all_alike_is_not_passed(tmp_path: Path) -> None:
    """Fresh networks often end with a layer of zeros, and any artifact does what they do."""
    last = nn.Linear(3, 5)
    nn.init.zeros_(last.weight)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), last)
    bundle = lvexport.export(model, to="onnx", imgsz=16, output=tmp_path, name="fresh", samples=10)
    (result,) = bundle.results
    assert result.status == "failed"
    assert "answers all 10 inputs alike" in str(result.error)
    assert bundle.exit_code == 1
    assert "alike" in str(lvexport.verify(bundle.path).results[0].error)


class TwoInputs(nn.Module):
    """Two inputs that are no pictures, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return self.linear(a) + b, (a * 2).tanh()


def test_a_program_with_several_inputs_and_outputs(tmp_path: Path) -> None:
    path = tmp_path / "two.pt2"
    torch.export.save(torch.export.export(TwoInputs().eval(), (torch.rand(1, 6), torch.rand(1, 4))), path)
    bundle = lvexport.export(str(path), to="onnx,tflite", output=tmp_path, samples=40)
    assert [r.status for r in bundle.results] == ["ok", "ok"], [r.error for r in bundle.results]
    assert all(r.verdict is not None and r.verdict.inputs.startswith("synthetic") for r in bundle.results)
    assert lvexport.verify(bundle.path).exit_code == 0
    assert lvexport.verify(bundle.path, against=str(path)).exit_code == 0


def test_a_factory_that_never_builds_the_same_is_refused(tmp_path: Path) -> None:
    script = tmp_path / "fickle.py"
    script.write_text("import os, torch\ndef model():\n    torch.manual_seed(int.from_bytes(os.urandom(4), 'big'))\n")
    with script.open("a") as file:
        file.write("    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten())\n")
    with pytest.raises(lvexport.UsageError, match="another network than"):
        lvexport.export(f"{script}:model", to="onnx", imgsz=16, output=tmp_path)


def test_one_failing_target_takes_no_other_down(tmp_path: Path) -> None:
    """An operation that one converter knows and another does not."""
    script = tmp_path / "odd.py"
    script.write_text(
        "import torch\n"
        "class Odd(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        return torch.special.bessel_j0(x.mean((2, 3)))\n"
        "model = Odd\n"
    )
    bundle = lvexport.export(f"{script}:model", to="onnx,executorch", imgsz=16, output=tmp_path, samples=10)
    states = {r.target: r.status for r in bundle.results}
    assert "error" in states.values()
    assert bundle.exit_code == 3
    assert all(r.error for r in bundle.results if r.status == "error")


def test_unknown_targets_are_refused_before_anything_is_built() -> None:
    with pytest.raises(UnknownName, match="Did you mean tflite"):
        lvexport.export("mobilevit", to="tfilte")
