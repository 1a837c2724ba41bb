"""Rewrites for one target's faults: the same program to PyTorch, and the right numbers from the target's runtime."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from lvexport.converters import derived
from lvexport.validation.metrics import sqnr_db
from lvexport.validation.runtimes.registry import RUNTIMES

Rewrite = Callable[[torch.fx.GraphModule], None]


class SoftmaxBehindConvolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.conv(x), dim=-1)


class WideGroupNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(2, 96)
        nn.init.normal_(self.norm.weight)
        nn.init.normal_(self.norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + 1)


def executorch(program: ExportedProgram, x: Tensor) -> Tensor:
    """What ExecuTorch computes, without any rewrite of ours."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.runtime import Runtime

    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    (y,) = Runtime.get().load_program(lowered.buffer).load_method("forward").execute([x])
    return y.clone()


@pytest.mark.parametrize(
    ("model", "shape", "rewrite", "without", "with_it"),
    [
        (SoftmaxBehindConvolution, (1, 8, 24, 40), derived.flatten_softmax, 30, 110),
        (WideGroupNorm, (1, 96, 32, 32), derived.spell_group_norms, 115, 125),
    ],
)
def test_the_rewrite_mends_what_executorch_gets_wrong(
    model: type[nn.Module], shape: tuple[int, ...], rewrite: Rewrite, without: float, with_it: float
) -> None:
    torch.manual_seed(0)
    network, x = model().eval().requires_grad_(False), torch.randn(shape)
    exact = copy.deepcopy(network).double()(x.double())
    program = torch.export.export(network, (x,))
    module = derived.rewritten(program, rewrite)
    plain, mended = executorch(program, x), executorch(torch.export.export(module, (x,)), x)
    assert torch.allclose(module(x), network(x), atol=1e-5)
    assert sqnr_db(exact.numpy(), plain.numpy()) < without, "mended upstream? then drop the rewrite"
    assert sqnr_db(exact.numpy(), mended.numpy()) > with_it


class UncountedPadding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(x)


def core_ai(program: ExportedProgram, x: Tensor, path: Path) -> Tensor:
    """What Core AI computes, without any rewrite of ours."""
    from coreai_torch import TorchConverter, get_decomp_table

    converter = TorchConverter().add_exported_program(
        program.run_decompositions(get_decomp_table()), input_names=["x"], output_names=["y"]
    )
    converter.to_coreai().save_asset(path)
    return torch.from_numpy(RUNTIMES["coreai"].load(path, 1).run({"x": x.numpy()})["y"])


@pytest.mark.parametrize(
    ("model", "shape", "rewrite", "without", "with_it"),
    [
        (UncountedPadding, (1, 8, 12, 10), derived.count_padding, 30, 120),
        (WideGroupNorm, (1, 96, 32, 32), derived.spell_group_norms, 125, 130),
    ],
)
def test_the_rewrite_mends_what_core_ai_gets_wrong(
    model: type[nn.Module], shape: tuple[int, ...], rewrite: Rewrite, without: float, with_it: float, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network, x = model().eval().requires_grad_(False), torch.randn(shape)
    exact = copy.deepcopy(network).double()(x.double()).numpy()
    program = torch.export.export(network, (x,))
    module = derived.rewritten(program, rewrite)
    plain = core_ai(program, x, tmp_path / "plain.aimodel")
    mended = core_ai(torch.export.export(module, (x,)), x, tmp_path / "mended.aimodel")
    assert torch.allclose(module(x), network(x), atol=1e-5)
    assert sqnr_db(exact, plain.numpy()) < without, "mended upstream? then drop the rewrite"
    assert sqnr_db(exact, mended.numpy()) > with_it


POOLS = [
    (nn.AvgPool2d(3, 1, 1, count_include_pad=False), True),
    (nn.AvgPool2d((3, 5), (2, 1), (1, 2), count_include_pad=False), True),
    (nn.AvgPool2d(4, padding=2, count_include_pad=False), True),
    (nn.AvgPool2d(3, 1, 1), False),
    (nn.AvgPool2d(2, count_include_pad=False), False),
    (nn.AvgPool2d(3, 2, 1, count_include_pad=False, divisor_override=5), False),
]


@pytest.mark.parametrize(("pool", "changes"), POOLS)
def test_pools_that_leave_padding_out_of_their_counts_stay_what_they_were(pool: nn.Module, changes: bool) -> None:
    x = torch.randn(2, 3, 9, 11)
    program = torch.export.export(pool, (x,))
    module = derived.rewritten(program, derived.count_padding)
    assert bool(module.graph.find_nodes(op="call_function", target=torch.ops.aten.mul.Tensor)) is changes
    assert torch.allclose(module(x), pool(x), atol=1e-6)


FORMS = [(1, True, (2, 6, 5)), (3, False, (1, 6, 4, 4)), (6, True, (2, 6, 3))]


@pytest.mark.parametrize(("groups", "affine", "shape"), FORMS)
def test_group_norms_of_every_form_are_spelled(groups: int, affine: bool, shape: tuple[int, ...]) -> None:
    norm, x = nn.GroupNorm(groups, 6, affine=affine).requires_grad_(False), torch.randn(shape)
    module = derived.rewritten(torch.export.export(norm, (x,)), derived.spell_group_norms)
    assert not module.graph.find_nodes(op="call_function", target=torch.ops.aten.group_norm.default)
    assert torch.allclose(module(x), norm(x), atol=1e-6)


@pytest.mark.parametrize(("dim", "shape"), [(-1, (2, 3, 4, 5)), (3, (2, 3, 4, 5)), (1, (2, 3, 4, 5)), (-1, (3, 4))])
def test_softmax_over_any_dimension_stays_what_it_was(dim: int, shape: tuple[int, ...]) -> None:
    softmax, x = nn.Softmax(dim), torch.randn(shape)
    module = derived.rewritten(torch.export.export(softmax, (x,)), derived.flatten_softmax)
    assert torch.allclose(module(x), softmax(x), atol=1e-7)
