"""A package that keeps states, verified against the module whose buffers they are; and faults in it, caught."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lvexport.validation.mil import protos
from tests.conftest import Run

WIDTH = 16
SPECIFICATION = "Data/com.apple.CoreML/model.mlmodel"
SCRIPT = """
import torch
from torch import nn

class Running(nn.Module):
    '''A sum over what it was given so far, weighed.'''

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.register_buffer("total", torch.zeros(1, 16))
        self.weigh = nn.Linear(16, 8)

    def forward(self, x):
        self.total.mul_(0.5)
        self.total.add_(x)
        return self.weigh(self.total)

class Started(Running):
    def __init__(self):
        super().__init__()
        self.total += 1
"""


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the script ``original.py`` and the package ``running.mlpackage``, by coremltools' converter."""
    import coremltools as ct
    import torch

    folder = tmp_path_factory.mktemp("states")
    (folder / "original.py").write_text(SCRIPT)
    names: dict[str, Any] = {}
    exec(SCRIPT, names)
    converted = ct.convert(
        torch.jit.trace(names["Running"]().eval(), torch.zeros(1, WIDTH)),
        inputs=[ct.TensorType(name="x", shape=(1, WIDTH))],
        outputs=[ct.TensorType(name="weighed")],
        states=[ct.StateType(wrapped_type=ct.TensorType(shape=(1, WIDTH)), name="total")],
        minimum_deployment_target=ct.target.iOS18,
        skip_model_load=True,
    )
    converted.save(str(folder / "running.mlpackage"))
    return folder


def verified(folder: Path, factory: str, lvexport: Run) -> Any:
    original = f"{folder / 'original.py'}:{factory}"
    said = ("--samples", "30", "--recipe", "fp16")
    return lvexport("verify", folder / "running.mlpackage", "--against", original, *said)


def test_states_go_on_for_some_inputs_on_both_sides(foreign: Path, lvexport: Run) -> None:
    done = verified(foreign, "Running", lvexport)
    assert done.returncode == 0, done.stdout + done.stderr


def test_buffers_that_begin_with_something_else_than_zeros_are_caught(foreign: Path, lvexport: Run) -> None:
    done = verified(foreign, "Started", lvexport)
    assert done.returncode == 1, done.stdout + done.stderr


def nothing_written(block: Any) -> None:
    kept = [operation for operation in block.operations if operation.type != "write_state"]
    assert len(kept) < len(block.operations)
    del block.operations[:]
    block.operations.extend(kept)


def a_scaled_state(block: Any) -> None:
    scaled = next(o for o in block.operations if o.type == "mul")
    names = {argument.name for value in scaled.inputs.values() for argument in value.arguments}
    constant = next(o for o in block.operations if o.type == "const" and o.outputs[0].name in names)
    tensor = constant.attributes["val"].immediateValue.tensor
    tensor.bytes.values = b"\x00\x3a"  # 0.75 in half precision, where 0.5 was


@pytest.mark.parametrize("plant", [nothing_written, a_scaled_state])
def test_a_fault_in_how_states_are_kept_is_caught(
    plant: Callable[[Any], None], foreign: Path, tmp_path: Path, lvexport: Run
) -> None:
    folder = shutil.copytree(foreign, tmp_path / "states")
    path = folder / "running.mlpackage" / SPECIFICATION
    message = protos.parse_model(path)
    (block,) = message.mlProgram.functions["main"].block_specializations.values()
    plant(block)
    path.write_bytes(message.SerializeToString())
    done = verified(folder, "Running", lvexport)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "does not compute what the original computes" in " ".join(done.stderr.split())


def test_the_time_of_its_operations_is_told(foreign: Path, lvexport: Run) -> None:
    package = foreign / "running.mlpackage"
    done = lvexport("bench", package, "--profile", "--runs", "3", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["inferences"] == 3
    (linear,) = [op for op in found["ops"] if op["type"] == "linear"]
    assert linear["shape"] == [1, 8]
    assert linear["read"] == 2 * (WIDTH + 8 * WIDTH + 8)
    assert linear["written"] == 2 * 8
    assert 0 < linear["seconds"] <= found["seconds"]
    table = lvexport("bench", package, "--profile", "--runs", "1").stdout
    assert "MB written" in table
    assert f"{len(found['ops'])} operations: " in table


def test_two_packages_are_not_profiled_at_once(foreign: Path, lvexport: Run) -> None:
    package = foreign / "running.mlpackage"
    done = lvexport("bench", package, package, "--profile")
    assert done.returncode == 2
    assert "One artifact is profiled at a time, and 2 were named" in " ".join(done.stderr.split())
