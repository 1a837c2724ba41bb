"""Programs in half precision: what stays in single precision there, and what XNNPACK takes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from lvexport.converters import executorch, halves
from lvexport.converters.derived import examples, for_xnnpack
from lvexport.converters.rewrites import defaults
from lvexport.converters.rewrites.apply import rewritten

WIDTH = 32


class Tokens(nn.Module):
    """A map as tokens of some thousands each, normalised, attended to and put through two activations."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 4, stride=4)
        self.norm = nn.LayerNorm(WIDTH)
        self.mix = nn.Linear(WIDTH, WIDTH)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 5)
        self.patches.weight.data *= 3000

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        seen = self.norm(tokens)
        tokens = tokens + nn.functional.scaled_dot_product_attention(seen, seen, seen)
        tokens = nn.functional.gelu(self.mix(self.norm2(tokens)))
        return self.head(nn.functional.silu(tokens).mean(1))


class RootMeanSquare(nn.Module):
    """What is divided by its own root mean square, as some authors spell it."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


class Shifted(RootMeanSquare):
    """The same behind a subtraction of what is no mean: a constant, or another input."""

    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.ones(WIDTH))

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        return super().forward(x - (self.shift if other is None else other))


@pytest.fixture
def network() -> Tokens:
    torch.manual_seed(0)
    return Tokens().eval().requires_grad_(False)


def exported(module: nn.Module, *inputs: Tensor) -> ExportedProgram:
    return torch.export.export(module, inputs)


def decibels(wanted: Tensor, found: Tensor) -> float:
    return 20 * float(torch.log10(wanted.norm() / (found - wanted).norm()))


def spelled(network: nn.Module, x: Tensor) -> ExportedProgram:
    program = exported(network, x)
    module, _ = rewritten(program, defaults.default("executorch", "fp16", None))
    return exported(module, *examples(program))


def test_squares_that_half_precision_cannot_hold_are_in_single_precision(network: Tokens) -> None:
    x = torch.rand(1, 3, 32, 32)
    wanted = network(x)
    tokens = network.patches(x)
    assert tokens.square().max() > torch.finfo(torch.half).max > tokens.abs().max()
    program = spelled(network, x)
    assert not program.module().graph.find_nodes(op="call_function", target=torch.ops.aten.layer_norm.default)
    (found,) = halves.halve(program).module()(x)
    assert decibels(wanted, found) > 45


def test_all_in_half_precision_would_be_wrong(network: Tokens) -> None:
    x = torch.rand(1, 3, 32, 32)
    wanted = network(x)
    naive = spelled(network, x).module().half()(x.half()).float()
    assert not decibels(wanted, naive) > 45


def test_root_mean_squares_are_found_however_they_are_spelled() -> None:
    x = 3000 * torch.rand(1, 4, WIDTH)
    (found,) = halves.halve(exported(RootMeanSquare(), x)).module()(x)
    assert decibels(RootMeanSquare()(x), found) > 60


@pytest.mark.parametrize("others", [(), (torch.ones(1, 4, WIDTH),)], ids=["constant", "input"])
def test_what_is_subtracted_need_not_be_a_mean(others: tuple[Tensor, ...]) -> None:
    x = 3000 * torch.rand(1, 4, WIDTH)
    (found,) = halves.halve(exported(Shifted(), x, *others)).module()(x, *others)
    assert decibels(Shifted()(x, *others), found) > 60


class Typed(nn.Module):
    """Types said by name: of numbers that are drawn up, of a part and of a softmax, and a norm of large numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv1d(WIDTH, WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        places = torch.arange(WIDTH, dtype=torch.float32)[:, None] / torch.arange(1, 5).to(torch.float32)
        x = self.layer(self.layer(1000 * torch.sin(places)[None]) + x)
        scores = (x.float() / x.norm(dim=-1, keepdim=True)).softmax(-1, dtype=torch.float32)
        return self.layer(scores)


def test_types_that_are_said_by_name_become_half_precision() -> None:
    torch.manual_seed(0)
    model, x = Typed(), torch.rand(1, WIDTH, 4)
    wanted = model(x)
    (found,) = halves.halve(exported(model, x)).module()(x)
    assert decibels(wanted, found) > 50


@pytest.mark.parametrize("rewrite", [True, False])
def test_xnnpack_takes_conversions(network: Tokens, rewrite: bool, tmp_path: Path) -> None:
    """All in one call where nothing else keeps it from that, and right also where layer norms stay outside."""
    x = torch.rand(1, 3, 32, 32)
    wanted = network(x)
    program = spelled(network, x) if rewrite else exported(network, x)
    edge, delegation = executorch.lowered(for_xnnpack(executorch.halved(program)))
    if rewrite:
        assert (delegation.calls, delegation.outside) == (1, {})
    else:
        assert delegation.calls > 1
        assert "dim_order_ops._to_dim_order_copy.default" not in delegation.outside
    assert decibels(wanted, ran(written(edge, tmp_path / "tokens.pte"), x)) > 45


@pytest.mark.parametrize("half", [True, False])
def test_hard_sigmoids_are_taken_whole(half: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Hardsigmoid(), nn.Conv2d(8, 8, 1), nn.Hardswish()).eval()
    model.requires_grad_(False)
    x = 8 * torch.randn(1, 3, 16, 16)
    wanted, program = model(x), exported(model, x)
    edge, delegation = executorch.lowered(for_xnnpack(executorch.halved(program) if half else program))
    assert (delegation.calls, delegation.outside) == (1, {})
    assert decibels(wanted, ran(written(edge, tmp_path / "hard.pte"), x)) > (55 if half else 110)


def test_hard_sigmoids_are_not_all_too_small(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = nn.Hardsigmoid(), torch.randn(1, 4096)
    edge, delegation = executorch.lowered(for_xnnpack(executorch.halved(exported(model, x))))
    assert (delegation.calls, delegation.outside) == (1, {})
    error = ran(written(edge, tmp_path / "hard.pte"), x) - model(x)
    assert error.mean().abs() < 2e-5  # -1e-4 where a sixth is rounded to half precision
    assert error.std() < 2e-4


@pytest.mark.parametrize("model", [nn.SiLU(), nn.Sigmoid()], ids=str)
def test_sigmoids_err_no_more_than_rounding_does(model: nn.Module, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 4096).half().float()
    edge, delegation = executorch.lowered(for_xnnpack(executorch.halved(exported(model, x))))
    assert (delegation.calls, delegation.outside) == (1, {})
    found = ran(written(edge, tmp_path / "sigmoid.pte"), x)
    assert decibels(model(x), found) > 72  # 66 to 68 in XNNPACK's half precision


def test_conversions_beside_what_stays_outside_are_run(tmp_path: Path) -> None:
    class Outside(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cumsum(torch.cumsum(x.half(), -1).float(), -1)  # which XNNPACK does not have

    x = torch.rand(2, 4)
    edge, delegation = executorch.lowered(for_xnnpack(exported(Outside(), x)))
    assert decibels(Outside()(x), ran(written(edge, tmp_path / "outside.pte"), x)) > 60
    assert "aten.cumsum.default" in delegation.outside


def test_weights_of_convolutions_take_half_the_bytes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 128, 3, padding=1),
        nn.Conv2d(128, 128, 3, padding=1, groups=128),
        nn.Conv2d(128, 128, 1),
        nn.ConvTranspose2d(128, 4, 2, stride=2),  # which stay in single precision
    )
    network.requires_grad_(False)
    x = torch.rand(1, 3, 8, 8)
    wanted, program = network(x), exported(network, x)
    single = written(executorch.lowered(for_xnnpack(program))[0], tmp_path / "single.pte")
    half = written(executorch.lowered(for_xnnpack(executorch.halved(program)))[0], tmp_path / "half.pte")
    assert half.stat().st_size < 0.6 * single.stat().st_size
    assert decibels(wanted, ran(half, x)) > 45


def written(edge: Any, out: Path) -> Path:
    out.write_bytes(edge.to_executorch().buffer)
    return out


def ran(artifact: Path, x: Tensor) -> Tensor:
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(artifact).load_method("forward")
    assert method is not None
    (found,) = method.execute([x])
    return torch.Tensor(found)
