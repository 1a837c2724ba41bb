"""The original run over its inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import Tensor, nn

import lvexport
from lvexport.capture import evaluate, together
from lvexport.feeding import SEQUENCE, load_outputs
from lvexport.jobs import Inputs
from lvexport.plain import plain
from lvexport.source import resolve


class Running(nn.Module):
    """Adds to a buffer, and gives it away."""

    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(1, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.total.add_(x)


def test_each_input_is_answered_with_the_buffer_as_it_was_then(tmp_path: Path) -> None:
    given = np.arange(2 * (SEQUENCE + 2), dtype=np.float32).reshape(-1, 2)
    save_file({"x": given}, tmp_path / "inputs.safetensors")
    model = Running()
    evaluate(model, Inputs(tmp_path / "inputs.safetensors", len(given)), tmp_path / "outputs.safetensors")
    (found,) = load_outputs(tmp_path / "outputs.safetensors")
    wanted = np.concatenate([part.cumsum(0) for part in np.split(given, [SEQUENCE])])
    np.testing.assert_array_equal(found, wanted)
    assert not model.total.any()  # its own buffer stays as it was


def test_batches_are_answered_as_inputs_by_themselves_are(tmp_path: Path) -> None:
    given = np.random.default_rng(0).random((19, 3, 64, 64), dtype=np.float32)
    save_file({"image": given}, tmp_path / "inputs.safetensors")
    model, inputs = lvexport.build("mobilevit_xxs", weights="demo"), Inputs(tmp_path / "inputs.safetensors", 19)
    found = []
    for batch in (1, together(resolve("mobilevit_xxs", "demo"))):
        evaluate(model, inputs, tmp_path / f"{batch}.safetensors", batch)
        found += load_outputs(tmp_path / f"{batch}.safetensors")
    assert found[0].shape == (19, 10)
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=1e-4)


def test_only_what_answers_each_input_by_itself_is_given_several() -> None:
    assert together(resolve("mobilevit_xxs", "demo")) == 16
    assert together(resolve("mobilevit_s", "random")) == 1  # at 256 pixels
    assert together(resolve("tests/examples/own_model.py:build", imgsz=16)) == 1


class Regions(nn.Module):
    """Parts in which autocast and gradients are off, one within another, giving one thing and several."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        with torch.autocast("cpu", enabled=False):
            z = y.float() + self.layer(y)
            with torch.autocast("cpu", enabled=False):
                z = z * 2
            total = z.sum()
        with torch.autocast("cpu", enabled=False):
            z = z.exp()
        return z * total


def test_regions_that_change_nothing_are_taken_in() -> None:
    model, inputs = Regions().eval(), (torch.rand(2, 8),)
    program = torch.export.export(model, inputs)
    assert "wrap_with_autocast" in str(program.graph)
    taken_in = plain(program, inputs)
    assert "wrap_with" not in str(taken_in.graph)
    assert torch.equal(taken_in.module()(*inputs), model(*inputs))
    assert plain(taken_in, inputs) is taken_in


class Cast(nn.Module):
    """A part that autocast computes in bfloat16."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return x @ x


def test_a_region_that_chooses_types_stays() -> None:
    inputs = (torch.rand(2, 2),)
    program = torch.export.export(Cast(), inputs)
    assert plain(program, inputs) is program


class Writes(nn.Module):
    """What is written into: a layer's output, twice; a sum that is read before and behind; parts of a map; a buffer."""

    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(2, 4, 1)
        self.register_buffer("total", torch.zeros(1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.hardswish(nn.functional.relu_(self.layer(x)).mul_(2), inplace=True)
        z = y + 1
        before = z * 3
        z.add_(y)
        z.clamp_(max=2)
        part = z[:, 1:]
        part.sub_(1)
        z.mul_(2)  # which the part sees
        kept = nn.functional.dropout(before, training=False)
        kept.neg_()  # which changes what it was kept of, too
        self.total.add_(1)
        return z * before + part.sum() + self.total


def test_what_is_written_into_is_given_where_nothing_shares_it() -> None:
    inputs = (torch.randn(1, 2, 3, 3),)
    wanted = Writes().eval()
    torch.manual_seed(0)
    model = Writes().eval()
    model.load_state_dict(wanted.state_dict())
    program = torch.export.export(model, inputs)
    given = plain(program, inputs)
    left = [str(n.target) for n in given.module().graph.nodes if "_." in str(n.target)]
    assert sorted(left) == ["aten.add_.Tensor", "aten.mul_.Tensor", "aten.neg_.default", "aten.sub_.Tensor"]
    torch.testing.assert_close(given.module()(*inputs), wanted(*inputs))


class AddsToPart(nn.Module):
    """Sums that write into parts: of what nothing else takes, and of what is taken again."""

    def __init__(self, again: bool) -> None:
        super().__init__()
        self.again = again

    def forward(self, x: Tensor) -> Tensor:
        whole = torch.cat([x, x * 2], 1)
        part = whole[:, :3]
        part += x[:, :3]
        return part + whole[:, 1:4] if self.again else part


@pytest.mark.parametrize("again", [False, True])
def test_a_part_that_is_written_into_is_given_where_the_whole_is_not_taken_again(again: bool) -> None:
    inputs = (torch.randn(1, 4, 2, 2),)
    given = plain(torch.export.export(AddsToPart(again), inputs), inputs)
    assert any("add_." in str(n.target) for n in given.module().graph.nodes) == again
    torch.testing.assert_close(given.module()(*inputs), AddsToPart(again)(*inputs))
