"""What each converter promises beyond the verdict, on a network small enough to convert many times."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lvexport import files
from lvexport.converters import coreml, derived, halves, onnx
from lvexport.converters.contract import Captured, ConversionError, Normalisation, Request, TensorSpec
from lvexport.converters.recipes import FP16, FP32
from lvexport.converters.registry import CONVERTERS
from lvexport.converters.rewrites.norms import fold_batch_norms, spell_rms_norms
from lvexport.plain import plain
from lvexport.validation import mil
from lvexport.validation.runtimes.registry import RUNTIMES


class Small(nn.Module):
    """Pictures of 16 × 16 pixels in four classes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


LABELS = ("a", "b", "c", "d")


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Small().eval()


@pytest.fixture(scope="module")
def captured(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Captured:
    path = tmp_path_factory.mktemp("captured") / "small.pt2"
    torch.export.save(torch.export.export(model, (torch.rand(1, 3, 16, 16),)), path)
    spec = TensorSpec("image", (1, 3, 16, 16), "float32")
    logits = TensorSpec("logits", (1, 4), "float32")
    return Captured(path, (spec,), (logits,), Normalisation((0.1, 0.2, 0.3), (0.5, 0.6, 0.7)), LABELS)


def coreml_request(**options: str) -> Request:
    defaults = {name: choice.values[0] for name, choice in CONVERTERS["coreml"].options.items()}
    return Request(FP32, defaults | options)


@pytest.mark.parametrize(("ios", "opset"), [("15", "CoreML5"), ("16", "CoreML6"), ("17", "CoreML7"), ("18", "CoreML8")])
def test_core_ml_package_is_for_the_ios_asked_for(ios: str, opset: str, captured: Captured, tmp_path: Path) -> None:
    import coremltools as ct

    out = tmp_path / "small.mlpackage"
    CONVERTERS["coreml"].convert(captured, coreml_request(min_ios=ios), out)
    spec = ct.utils.load_spec(str(out))
    assert spec.mlProgram.functions["main"].opset == opset


@pytest.mark.parametrize("channels", ["RGB", "BGR"])
def test_core_ml_picture_package_has_preprocessing_and_labels(
    channels: str, model: nn.Module, captured: Captured, tmp_path: Path
) -> None:
    import numpy as np

    assert captured.normalisation is not None
    captured = replace(captured, normalisation=replace(captured.normalisation, channels=channels))
    out = tmp_path / "small.mlpackage"
    CONVERTERS["coreml"].convert(captured, coreml_request(io="image"), out)
    package = mil.load(out)
    assert package.labels == LABELS
    assert package.inputs[0].layout == channels
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    scaled = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7)))
    prepared = (scaled - mean) / std
    expected = torch.softmax(model(prepared if channels == "RGB" else prepared.flip(1)), -1)[0]
    answer = package.predict({"image": picture})
    (probabilities,) = (v for v in answer.values() if isinstance(v, dict))
    (label,) = (v for v in answer.values() if isinstance(v, str))
    assert [probabilities[name] for name in LABELS] == pytest.approx(expected.tolist(), abs=1e-5)
    assert label == LABELS[int(expected.argmax())]


def test_core_ml_picture_package_is_refused_for_other_interfaces(captured: Captured, tmp_path: Path) -> None:
    odd = Captured(captured.path, captured.inputs, captured.outputs, None)
    with pytest.raises(ConversionError, match="--io image is for classifiers"):
        CONVERTERS["coreml"].convert(odd, coreml_request(io="image"), tmp_path / "odd.mlpackage")


@pytest.mark.parametrize("recipe", ["fp32", "w4"])
def test_core_ml_bytes_follow_from_the_program(recipe: str, captured: Captured, tmp_path: Path) -> None:
    a, b = tmp_path / "a.mlpackage", tmp_path / "b.mlpackage"
    request = replace(coreml_request(min_ios="18"), recipe=CONVERTERS["coreml"].recipes[recipe])
    for out in (a, b):
        CONVERTERS["coreml"].convert(captured, request, out)
    assert files.digest(a) == files.digest(b)


class Refused:
    """A program that coremltools' torch.export front end does not take."""

    def __init__(self, program: Any) -> None:
        self.example_inputs = program.example_inputs
        self.graph_module, self.module = program.graph_module, program.module

    def run_decompositions(self, table: Any) -> Any:
        raise NotImplementedError("an operation of the export that is not known")


def test_core_ml_falls_back_to_a_trace_and_says_so(captured: Captured) -> None:
    arguments = {**coreml.tensor_interface(captured), "convert_to": "mlprogram", "skip_model_load": True}
    _, route = coreml.convert_program(captured.program(), arguments)
    assert route == "torch.export"
    made, route = coreml.convert_program(Refused(captured.program()), arguments)  # type: ignore[arg-type]
    assert route == "torch.jit.trace"
    assert made.get_spec().description.output[0].name == "logits"


class Score(nn.Module):
    """A linear layer of one output, and a number added to it: (1, 8) → (1, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        score: Tensor = self.layer(x) + 0.5
        return score


def test_core_ml_takes_a_number_added_to_one_output(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, x = Score().eval(), torch.randn(1, 8)
    made, route = coreml.convert_program(
        torch.export.export(network, (x,)), {"convert_to": "mlprogram", "skip_model_load": True}
    )
    assert route == "torch.export"
    made.save(str(tmp_path / "score.mlpackage"))
    (score,) = mil.load(tmp_path / "score.mlpackage").predict({"x": x.numpy()}).values()
    assert score == pytest.approx(network(x).detach().numpy(), abs=1e-2)  # in half precision


def scaled_onnx(captured: Captured) -> tuple[Any, Any]:
    """An ONNX model, and the same with one weight scaled by 1.05."""
    import copy

    import numpy as np
    from onnx import numpy_helper

    program = torch.onnx.export(captured.program(), dynamo=True, input_names=["image"], verbose=False)
    assert program is not None
    model = program.model_proto
    changed = copy.deepcopy(model)
    tensor = next(t for t in changed.graph.initializer if np.prod(t.dims) == 32)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.05), tensor.name))
    return model, changed


def test_onnx_simplifying_is_checked(captured: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    model, changed = scaled_onnx(captured)
    simplified, remark = onnx.simplify(model, captured)
    assert len(simplified.graph.node) <= len(model.graph.node)
    assert "onnxsim" in remark
    import onnxsim

    monkeypatch.setattr(onnxsim, "simplify", lambda given: (changed, True))
    with pytest.raises(ConversionError, match="onnxsim changed"):
        onnx.simplify(model, captured)


def test_onnx_half_precision_keeps_its_interface(captured: Captured, tmp_path: Path) -> None:
    import onnxruntime

    out = tmp_path / "small.onnx"
    CONVERTERS["onnx"].convert(captured, Request(FP16), out)
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    assert [v.name for v in (*session.get_inputs(), *session.get_outputs())] == ["image", "logits"]
    assert {v.type for v in (*session.get_inputs(), *session.get_outputs())} == {"tensor(float)"}


class Normalised(nn.Module):
    """Both normalisations, with statistics off their defaults."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv2d(3, 8, 3, bias=False)
        self.batch = nn.BatchNorm2d(8)
        self.layer = nn.LayerNorm(8)
        for value in (*self.batch.parameters(), self.batch.running_mean, self.batch.running_var):
            value.data.add_(torch.rand(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.batch(self.conv(x)).mean((2, 3)))


def test_half_programs_fold_batch_norms_in_single_precision_and_widen_layer_norms() -> None:
    model, x = Normalised().eval(), torch.rand(1, 3, 16, 16)
    program = torch.export.export(model, (x,))
    module = derived.rewritten(program, fold_batch_norms)
    assert not module.graph.find_nodes(op="call_function", target=torch.ops.aten.batch_norm.default)
    with torch.no_grad():
        expected = model(x)
        assert torch.allclose(module(x), expected, atol=1e-5)
        (half,) = halves.halve(program).module()(x)  # takes the program's own numbers along, so it comes last
    assert half.dtype == torch.float32
    assert torch.allclose(half, expected, atol=2e-2)
    assert not torch.equal(half, expected)


class Spelled(nn.Module):
    """What converters take for something else: GELU's form with tanh, RMS normalisation, a pooling without stride."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm = nn.Conv2d(3, 12, 3, padding=1), nn.RMSNorm(12)
        self.mlp = nn.Sequential(nn.Linear(12, 24), nn.GELU(approximate="tanh"), nn.Linear(24, 4))

    def forward(self, x: Tensor) -> Tensor:
        tokens = nn.functional.max_pool2d(self.stem(x) * 3, 2).flatten(2).transpose(1, 2)
        y: Tensor = self.mlp(self.norm(tokens))
        return y


@pytest.mark.parametrize("target", ["coreml", "executorch", "executorch:coreml"])
def test_gelu_and_rms_normalisation_are_those_of_the_original(target: str, tmp_path: Path) -> None:
    model, x = Spelled().eval().requires_grad_(False), torch.linspace(0, 1, 768).reshape(1, 3, 16, 16)
    torch.export.save(plain(torch.export.export(model, (x,)), (x,)), tmp_path / "program.pt2")
    specs = (TensorSpec("x", (1, 3, 16, 16), "float32"),), (TensorSpec("y", (1, 64, 4), "float32"),)
    converter = CONVERTERS[target]
    out = tmp_path / f"made{converter.suffix}"
    options = {name: choice.values[0] for name, choice in converter.options.items()}
    converter.convert(Captured(tmp_path / "program.pt2", *specs), Request(FP32, options), out)
    session = RUNTIMES[target].load(out, 1)
    (found,) = session.run({session.inputs[0].name: x.numpy()}).values()
    wanted = model(x)
    assert 20 * float(torch.log10(wanted.norm() / (torch.from_numpy(found) - wanted).norm())) > 110


def test_rms_normalisation_keeps_squares_within_half_precision() -> None:
    norm, x = nn.RMSNorm(8, eps=1e-6), torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    x = x * torch.tensor([0.0, 1e-3, 1.0, 300.0, 3e4])[:, None]
    module = torch.export.export(norm.eval(), (x,)).module()
    assert isinstance(module, torch.fx.GraphModule)
    spell_rms_norms(module)
    module.recompile()
    torch.testing.assert_close(module(x), norm(x))
    largest = 0.0

    class Watching(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> Any:
            nonlocal largest
            found = super().run_node(n)
            largest = max(largest, float(found.detach().abs().max())) if isinstance(found, Tensor) else largest
            return found

    Watching(module).run(x)
    assert largest < torch.finfo(torch.float16).max


def test_what_rms_normalisation_adds_is_that_of_the_original_precision() -> None:
    x = torch.rand(1, 4, 8)
    (norm,) = plain(torch.export.export(nn.RMSNorm(8).eval(), (x,)), (x,)).graph.find_nodes(
        op="call_function", target=torch.ops.aten.rms_norm.default
    )
    assert norm.args[3] == torch.finfo(torch.float32).eps


def test_core_ml_is_refused_with_what_was_in_the_way_of_the_program_itself(tmp_path: Path) -> None:
    model = nn.Bilinear(3, 3, 2)
    x = torch.rand(1, 3)
    torch.export.save(torch.export.export(model.eval(), (x, x)), tmp_path / "program.pt2")
    specs = tuple(TensorSpec(name, (1, 3), "float32") for name in ("a", "b"))
    captured = Captured(tmp_path / "program.pt2", specs, (TensorSpec("y", (1, 2), "float32"),))
    with pytest.raises(NotImplementedError, match="bilinear"):
        CONVERTERS["coreml"].convert(captured, coreml_request(), tmp_path / "made.mlpackage")
