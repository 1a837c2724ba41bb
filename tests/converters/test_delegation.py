"""How much of the registry's networks XNNPACK takes: each at its own size, with the rewrites that are the default."""

from __future__ import annotations

import pytest
import torch

import lvexport
from lvexport.converters import executorch
from lvexport.converters.derived import examples, for_xnnpack
from lvexport.converters.rewrites import apply, defaults
from lvexport.models.registry import ENTRIES

MOST = 3  # calls of the delegate


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["fp32", "fp16"])
@pytest.mark.parametrize("name", ENTRIES)
def test_every_network_is_a_few_calls_of_the_delegate(name: str, recipe: str) -> None:
    model = lvexport.build(name, weights="random")
    side = ENTRIES[name].imgsz
    program = torch.export.export(model, (torch.rand(1, 3, side, side),))
    module, _ = apply.rewritten(program, defaults.default("executorch", recipe, ENTRIES[name].family))
    program = torch.export.export(module, examples(program))
    _, delegation = executorch.lowered(for_xnnpack(executorch.halved(program) if recipe == "fp16" else program))
    assert delegation.calls <= MOST
