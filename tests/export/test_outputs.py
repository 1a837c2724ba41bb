"""Models that give their tensors in other ways than one by one."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from lvexport.capture import Built, capture, sequence
from lvexport.errors import UsageError
from lvexport.outputs import is_plain, names_of, tensors_of
from lvexport.source import resolve


class Pair(NamedTuple):
    boxes: Tensor
    scores: Tensor


@dataclass
class Found:
    scores: Tensor
    loss: Tensor | None = None


A, B = torch.ones(2), torch.zeros(3)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (A, ["output_0"]),
        ((A, B), ["output_0", "output_1"]),
        (Pair(A, B), ["boxes", "scores"]),
        ({"scores": A, "pyramid": [B, A]}, ["scores", "pyramid_0", "pyramid_1"]),
        (OrderedDict(a=A, nothing=None, words="cat"), ["a"]),
        (Found(A), ["scores"]),
        ({"image": A, "b": B}, ["output_0", "output_1"]),  # the name of an input
        ({"a.b": A, "a_b": B}, ["output_0", "output_1"]),
        ({3: A}, ["output_0"]),
    ],
)
def test_tensors_are_found_and_called_what_the_model_calls_them(given: Any, names: list[str]) -> None:
    assert names_of(given, ["image"]) == names
    assert all(any(tensor is one for one in (A, B)) for _, tensor in tensors_of(given))


def test_what_converters_know_is_left_as_it_is() -> None:
    assert is_plain(A)
    assert is_plain([A, B])
    assert not any(map(is_plain, [Pair(A, B), {"a": A}, (A, None), ((A, B), A), ()]))


class Giving(nn.Module):
    """Gives what ``of`` makes of a layer's output."""

    def __init__(self, of: Any) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)
        self.of = of

    def forward(self, x: Tensor) -> Any:
        return self.of(self.layer(x))


@pytest.mark.parametrize(
    "of",
    [lambda y: {"map": y, "mean": [y.mean((2, 3)), None]}, lambda y: Found(y), lambda y: Pair(y, y.sum(1))],
)
def test_the_program_gives_a_row_of_tensors(of: Any, tmp_path: Path) -> None:
    source = resolve("tests/examples/own_model.py:build", imgsz=16)
    model = Giving(of).eval().requires_grad_(False)
    made = capture(Built(model, source), tmp_path / "program.pt2")
    x = torch.rand(1, 3, 16, 16)
    found = torch.export.load(tmp_path / "program.pt2").module()(x)
    wanted = sequence(model, {}, [(x,)])[0]
    assert [s.shape for s in made.outputs] == [tuple(tensor.shape) for tensor in wanted]
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_a_model_that_gives_no_tensor_is_refused(tmp_path: Path) -> None:
    source = resolve("tests/examples/own_model.py:build", imgsz=16)
    with pytest.raises(UsageError, match="gives no tensor but a dict"):
        capture(Built(Giving(lambda y: {}), source), tmp_path / "program.pt2")
