"""Checkpoints with channels of unlike range: the same function, and ranges as far apart as was asked for."""

from __future__ import annotations

import pytest
import torch

import lvexport
from tools.outliers import CHECKPOINTS, NAMES, scale_channels


@pytest.mark.parametrize("name", NAMES)
def test_the_function_stays_and_ranges_do_not(name: str) -> None:
    model = lvexport.build(name.partition("-")[0], weights=CHECKPOINTS / f"{name}.safetensors").double().eval()
    picture = torch.rand(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    old = {key: weight.abs().flatten(1).amax(1) for key, weight in model.state_dict().items() if weight.ndim > 1}
    with torch.no_grad():
        before = model(picture)
        scale_channels(model, decades=3.0, seed=0)
        after = model(picture)
    assert 10 * torch.log10(before.square().sum() / (before - after).square().sum()) > 200
    spread = [(model.state_dict()[key].abs().flatten(1).amax(1) / value).log10() for key, value in old.items()]
    assert max(float(s.max() - s.min()) for s in spread if s.isfinite().all()) > 2.5
