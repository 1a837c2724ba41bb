"""Which passes of ExecuTorch trace a program, and that programs are the same bytes where some are spared that."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from executorch.exir.dialects._ops import ops
from executorch.exir.pass_base import ExportPass
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.passes.infra.pass_base import PassResult

from lvexport.converters import executorch, retracing
from lvexport.converters.derived import for_xnnpack

ADD, SUB = ops.edge.aten.add.Tensor, ops.edge.aten.sub.Tensor


class Small(nn.Module):
    """Convolutions, normalisation and a pooling, which passes look for."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.linear = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        tokens = nn.functional.silu(self.norm(self.conv(x))).flatten(2).mT
        return (tokens + self.linear(tokens)).mean(1)


class Looks(ExportPass):
    """Finds nothing."""

    def call(self, module: GraphModule) -> PassResult:
        return super().call(module)


class Subtracts(ExportPass):
    """Changes the graph, and has it traced then."""

    def call(self, module: GraphModule) -> PassResult:
        for node in module.graph.find_nodes(op="call_function", target=ADD):
            node.target = SUB
        return super().call(module)


class SubtractsMeanwhile(ExportPass):
    """Changes the graph while it is traced."""

    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
        return super().call_operator(SUB if op == ADD else op, args, kwargs, meta)


def edge() -> Any:
    from executorch.exir import to_edge

    return to_edge(torch.export.export(Small().eval(), (torch.rand(1, 3, 8, 8),))).exported_program().graph_module


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The passes by name that traced a program."""
    found: list[str] = []
    always = ExportPass.call

    def call(self: ExportPass, module: GraphModule) -> PassResult:
        found.append(type(self).__name__)
        return always(self, module)

    monkeypatch.setattr(ExportPass, "call", call)
    return found


def test_what_was_traced_and_not_changed_is_not_traced_again(traced: list[str]) -> None:
    module = edge()
    del traced[:]
    with retracing.only_where_needed():
        module = Looks()(module).graph_module
        assert Looks()(module).graph_module is module
    assert traced == ["Looks"]
    Looks()(module)
    assert traced == ["Looks", "Looks"]


@pytest.mark.parametrize("change", [Subtracts, SubtractsMeanwhile])
def test_what_changes_a_program_traces_it(change: type[ExportPass], traced: list[str]) -> None:
    module = edge()
    del traced[:]
    with retracing.only_where_needed():
        module = Looks()(module).graph_module
        module = change()(module).graph_module
        assert module.graph.find_nodes(op="call_function", target=SUB)
        assert not module.graph.find_nodes(op="call_function", target=ADD)
    assert traced == ["Looks", change.__name__]


def test_an_input_that_lies_otherwise_in_memory_is_a_change(traced: list[str]) -> None:
    module = edge()
    del traced[:]
    with retracing.only_where_needed():
        module = Looks()(module).graph_module
        place = module.graph.find_nodes(op="placeholder")[-1]
        place.meta["val"] = place.meta["val"].to(memory_format=torch.channels_last)
        Looks()(module)
    assert traced == ["Looks", "Looks"]


def test_programs_are_the_same_bytes(monkeypatch: pytest.MonkeyPatch, traced: list[str]) -> None:
    program = torch.export.export(Small().eval(), (torch.rand(1, 3, 8, 8),))
    made: dict[bool, bytes] = {}
    passes: dict[bool, int] = {}

    def made_with(spared: bool, block: AbstractContextManager[None]) -> None:
        del traced[:]
        monkeypatch.setattr(retracing, "only_where_needed", lambda: block)
        made[spared] = executorch.lowered(for_xnnpack(program))[0].to_executorch().buffer
        passes[spared] = len(traced)

    blocks = {False: nullcontext, True: retracing.only_where_needed}
    for spared in (False, True, False):  # what passes look for is itself a program, which only the first time makes
        made_with(spared, blocks[spared]())
    assert made[True] == made[False]
    assert passes[True] < passes[False] - 8
