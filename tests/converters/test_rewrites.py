"""Rewrites for one target's faults: the same program to PyTorch, and the right numbers from the target's runtime."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from lvexport.converters import derived
from lvexport.validation.metrics import sqnr_db

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
