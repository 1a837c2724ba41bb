"""What stands between layers that integers compute stays what it is, in the vendors' runtimes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn import functional as F

from lvexport.converters import tflite_edits as edits
from lvexport.converters.contract import ConversionError, Delegation
from lvexport.converters.quantization.forms import flatten_layers
from lvexport.converters.quantization.quantize import Calibration, quantize
from lvexport.converters.quantization.settings import Settings
from lvexport.converters.quantization.sites import sites, whole
from lvexport.converters.rewrites.graph import ATEN, calls, is_call
from lvexport.converters.rewrites.layers import LAYERS
from lvexport.converters.tflite_fences import FENCES, fence
from lvexport.converters.tflite_integers import write_layers
from lvexport.validation.runtimes.registry import RUNTIMES


class Between(nn.Module):
    """Two convolutions of one picture, something of both, and a layer that takes it."""

    def __init__(self, of: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.of = of
        self.a, self.b = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(3, 16, 3, 2, 1)
        self.far = nn.Parameter(torch.randn(1, 16, 16, 16) * 5)
        with torch.no_grad():
            found = self.of(torch.zeros(1, 16, 16, 16), torch.zeros(1, 16, 16, 16), self.far)
        self.out = nn.Conv2d(found.shape[1], 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(self.of(self.a(x), self.b(x), self.far))
        return y


class Loose(Between):
    """The same, with floating point behind it."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.of(self.a(x), self.b(x), self.far))


class Tied(nn.Module):
    """A layer that stands in three places, each with inputs of another range, and a maximum before it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.mix = nn.Conv2d(3, 24, 4, 2), nn.Conv2d(24, 24, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.stem(x), 2)
        for factor in (1.0, 4.0, 9.0):
            x = x + self.mix(x * factor)
        return x


class Bands(nn.Module):
    """Channels that go through kernels of four forms, as in InceptionNeXt, with one range each, and past none."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.out = nn.Conv2d(3, 32, 4, 4), nn.Conv2d(32, 32, 1)
        shapes = ((3, 3), (1, 9), (9, 1))
        self.kernels = nn.ModuleList(nn.Conv2d(8, 8, k, padding="same", groups=8) for k in shapes)
        with torch.no_grad():
            for i, kernel in enumerate(self.kernels):
                kernel.weight.mul_(6.0**i)
            self.stem.weight[8:].mul_(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(2):
            own, *parts = (x[:, i : i + 8] for i in range(0, 32, 8))
            x = x + self.out(torch.cat([own, *(kernel(p) for kernel, p in zip(self.kernels, parts, strict=True))], 1))
        return x


class Joined(nn.Module):
    """Two layers of unlike ranges, of which a third takes all, and a fourth takes one alone as well."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = (nn.Conv2d(3, 8, 1) for _ in range(3))
        self.out, self.more = nn.Conv2d(24, 8, 1), nn.Conv2d(8, 8, 1)
        with torch.no_grad():
            self.b.weight.mul_(20)

    def forward(self, x: Tensor) -> Tensor:
        c = self.c(x)
        return self.out(torch.cat([self.a(x), self.b(x), c], 1)) + self.more(c)


class Rows(nn.Module):
    """A normalisation, as products, and a layer behind the mean of a map."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head, self.last = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, 8, bias=False), nn.Conv2d(8, 4, 1)
        self.mean = nn.Parameter(torch.full((1, 16), 1 / 16))

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x).mean((2, 3), True).permute(0, 2, 3, 1)
        y = y * torch.rsqrt(F.linear(y * y, self.mean) + 1e-6)
        return self.last(self.head(y).permute(0, 3, 1, 2))


INPUTS = [(torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(i)),) for i in range(4)]


@torch.no_grad()
def rounded(model: nn.Module) -> ExportedProgram:
    module = torch.export.export(model.eval().requires_grad_(False), INPUTS[0]).module()
    assert isinstance(module, torch.fx.GraphModule)
    return quantize(module, Calibration(INPUTS), INPUTS, Settings(8))[0]


def handed_over(program: ExportedProgram) -> tuple[Any, Delegation]:
    """A program with what XNNPACK takes handed to it."""
    from lvexport.converters.derived import for_xnnpack
    from lvexport.converters.executorch import lowered
    from lvexport.converters.quantization.forms import with_own_reading

    return lowered(for_xnnpack(with_own_reading(program)))


def converted(target: str, program: ExportedProgram, out: Path) -> None:
    if target == "tflite":
        write_layers(program, out, floats=True)
        return
    out.write_bytes(handed_over(program)[0].to_executorch().buffer)


def sqnr_db(target: str, model: nn.Module, folder: Path) -> float:
    """How near an artifact is to the program with its roundings."""
    program, out = rounded(model), folder / f"made.{target}"
    converted(target, program, out)
    session = RUNTIMES[target].load(out, 1)
    signal = noise = 0.0
    with torch.no_grad():
        for inputs in INPUTS:
            wanted = program.module()(*inputs)
            (found,) = session.run({session.inputs[0].name: inputs[0].numpy()}).values()
            signal += float(wanted.square().sum())
            noise += float((wanted - torch.from_numpy(found)).square().sum())
    return float(10 * torch.log10(torch.tensor(signal / max(noise, 1e-30))))


Function = Callable[[Tensor, Tensor, Tensor], Tensor]
# Each where it shows: with floating point behind it, or with a layer.
OF: Mapping[str, tuple[type[Between], Function]] = {
    "exponentials beside": (Loose, lambda a, b, far: torch.cat([a, (b * 3).exp()], 1)),
    "a constant of a wider range beside": (Loose, lambda a, b, far: torch.cat([far, a], 1)),
    "maximum with a constant": (Loose, lambda a, b, far: torch.maximum(a, far)),
    "one where the other is above": (Loose, lambda a, b, far: torch.where(a > 0, a, b * 30)),
    "filled": (Loose, lambda a, b, far: a.masked_fill(b > 0, -50.0)),
    "softplus": (Between, lambda a, b, far: F.softplus(a)),
    "padded with a number": (Between, lambda a, b, far: F.pad(a, (1, 1, 1, 1), value=9.0)),
    "mean of places": (Between, lambda a, b, far: F.avg_pool2d(a, 3, 1, 1)),
    "softmax": (Between, lambda a, b, far: torch.softmax(a, 1)),
    "maximum of places": (Between, lambda a, b, far: F.max_pool2d(a, 2)),
    "nearest": (Between, lambda a, b, far: F.interpolate(a, scale_factor=2) + F.interpolate(b, size=32)),
    "part": (Between, lambda a, b, far: a[:, 3:9]),
    "rounded up": (Between, lambda a, b, far: torch.ceil(a)),
}


@pytest.mark.parametrize("target", ["tflite", "executorch"])
@pytest.mark.parametrize(("form", "of"), OF.values(), ids=OF.keys())
def test_artifacts_compute_it(form: type[Between], of: Function, target: str, tmp_path: Path) -> None:
    assert sqnr_db(target, form(of), tmp_path) > 50


@pytest.mark.parametrize("target", ["tflite", "executorch"])
@pytest.mark.parametrize("model", [Bands, Joined, Rows])
def test_parts_and_wholes_are_right(model: type[nn.Module], target: str, tmp_path: Path) -> None:
    assert sqnr_db(target, model(), tmp_path) > 35


@pytest.mark.parametrize("model", [Bands(), Between(OF["nearest"][1]), Between(OF["part"][1])])
def test_they_stay_in_one_call_of_the_delegate(model: nn.Module) -> None:
    assert handed_over(rounded(model))[1].calls == 1


def test_what_is_joined_for_layers_alone_is_rounded_once() -> None:
    program = rounded(Joined())
    (join,) = calls(program.graph_module, ATEN.cat.default)
    (whole_grid,) = {user.args[1:] for user in join.users}
    a, b, c = (given.args[1:] for given in join.all_input_nodes)
    assert a == b == whole_grid
    assert c != whole_grid


@pytest.mark.parametrize("rank", [4, 5])
def test_a_layer_over_single_rows_is_converted_in_floating_point(rank: int, tmp_path: Path) -> None:
    from lvexport.converters.contract import Captured, Request, TensorSpec
    from lvexport.converters.registry import CONVERTERS

    shape = (*(1, 2, 3)[: rank - 2], 1, 16)
    model, x = nn.Sequential(nn.Linear(16, 4, bias=False), nn.Tanh()).eval(), torch.rand(shape)
    torch.export.save(torch.export.export(model, (x,)), tmp_path / "rows.pt2")
    specs = (TensorSpec("x", shape, "float32"),), (TensorSpec("y", (*shape[:-1], 4), "float32"),)
    converter, out = CONVERTERS["tflite"], tmp_path / "rows.tflite"
    converter.convert(Captured(tmp_path / "rows.pt2", *specs), Request(converter.recipes["fp32"]), out)
    session = RUNTIMES["tflite"].load(out, 1)
    (found,) = session.run({session.inputs[0].name: x.numpy()}).values()
    torch.testing.assert_close(torch.from_numpy(found), model(x).detach())


@pytest.mark.parametrize("target", ["tflite", "executorch"])
def test_a_bias_of_several_layers_is_right_in_each(target: str, tmp_path: Path) -> None:
    assert sqnr_db(target, Tied(), tmp_path) > 40


def test_a_weight_of_several_layers_counts_once() -> None:
    module = torch.export.export(Tied().eval(), INPUTS[0]).module()
    assert isinstance(module, torch.fx.GraphModule)
    found = sites(module)
    weights, macs = whole(module, INPUTS[0]).shares(found)
    assert len(found) == 4
    assert weights == pytest.approx((24 * 3 * 16 + 24 * 24 * 9) / (24 * 3 * 16 + 24 * 24 * 9 + 2 * 24))
    assert macs == pytest.approx(1.0)


def test_what_integers_do_not_compute_counts_among_products() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 8, 2, stride=2)).eval()
    program = torch.export.export(module, INPUTS[0]).module()
    assert isinstance(program, torch.fx.GraphModule)
    # 24 products for each of the places, and 8 · 8 · 4 of the transposed one.
    assert whole(program, INPUTS[0]).shares(sites(program))[1] == pytest.approx(24 / (24 + 256))


def test_a_layer_over_rows_keeps_what_clips_it() -> None:
    module = rounded(nn.Sequential(nn.Flatten(2), nn.Linear(1024, 8), nn.ReLU(), nn.Linear(8, 8))).module()
    assert isinstance(module, torch.fx.GraphModule)
    wanted = module(*INPUTS[0])
    flatten_layers(module)
    module.recompile()
    (relu,) = calls(module, ATEN.relu.default)
    assert is_call(relu.args[0], *LAYERS)
    torch.testing.assert_close(module(*INPUTS[0]), wanted)


def test_a_model_names_only_operators_that_it_has(tmp_path: Path) -> None:
    converted("tflite", rounded(Loose(lambda a, b, far: torch.maximum(a, far))), tmp_path / "made.tflite")
    model = schema.ModelT.InitFromPackedBuf((tmp_path / "made.tflite").read_bytes(), 0)
    used = {edits.code(model, operator) for operator in model.subgraphs[0].operators}
    assert len(model.operatorCodes) == len(used)
    assert schema.BuiltinOperator.MAXIMUM in used
    assert not used & set(FENCES.values()) - {schema.BuiltinOperator.SIN}  # which is the model's own


@pytest.mark.parametrize("floats", [True, False])
def test_hard_swish_is_in_floating_point_where_a_model_has_any(floats: bool, tmp_path: Path) -> None:
    program, out = rounded(Between(lambda a, b, far: F.hardswish(a))), tmp_path / "made.tflite"
    write_layers(program, out, floats)
    model = schema.ModelT.InitFromPackedBuf(out.read_bytes(), 0)
    (graph,) = model.subgraphs
    (gate,) = (o for o in graph.operators if edits.code(model, o) == schema.BuiltinOperator.HARD_SWISH)
    wanted = schema.TensorType.FLOAT32 if floats else schema.TensorType.INT8
    assert {graph.tensors[place].type for place in (*gate.inputs, *gate.outputs)} == {wanted}


def test_a_model_with_all_that_could_fence_is_refused() -> None:
    module = rounded(Between(lambda a, b, far: torch.maximum(a.ceil().cos(), b.sin().floor()))).module()
    assert isinstance(module, torch.fx.GraphModule)
    with pytest.raises(ConversionError, match="are all in this model"):
        fence(module, floats=True)
    assert len(FENCES) == 4
