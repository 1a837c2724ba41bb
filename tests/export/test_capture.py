"""The original run over its inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import Tensor, nn

from lvexport.capture import evaluate
from lvexport.feeding import SEQUENCE, load_outputs
from lvexport.jobs import Inputs


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
