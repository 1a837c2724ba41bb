"""Core AI assets: their bytes follow from the program, in every process, and tell nothing of the machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lvexport.converters.coreai import CONVERTER
from lvexport.converters.recipes import RECIPES

SCRIPT = """
import copy
import sys
from pathlib import Path
import torch
from torch import nn
from lvexport import files
from lvexport.converters.compression import compress
from lvexport.converters.contract import Captured, Request, TensorSpec
from lvexport.converters.registry import CONVERTERS

folder = Path(sys.argv[1])
torch.manual_seed(0)
norms = [layer for _ in range(8) for layer in (nn.LayerNorm(96), nn.Linear(96, 96))]
model = nn.Sequential(nn.Conv2d(3, 6, 4, stride=4), nn.Flatten(), *norms).eval()
x = (torch.rand(1, 3, 16, 16),)
given, made = TensorSpec("picture", (1, 3, 16, 16), "float32"), TensorSpec("scores", (1, 96), "float32")
for recipe in CONVERTERS["coreai"].recipes.values():
    out, program = folder / f"{recipe.name}.aimodel", torch.export.export(copy.deepcopy(model), x)
    if recipe.weights is not None:
        program = compress(program.module(), x, recipe.weights)
    torch.export.save(program, folder / "program.pt2")
    CONVERTERS["coreai"].convert(Captured(folder / "program.pt2", (given,), (made,)), Request(recipe), out)
    print(recipe.name, files.digest(out))
"""


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, str]]:
    """Two processes that convert the same program: their folders, and the digests that they print."""
    made = []
    for _ in range(2):
        folder = tmp_path_factory.mktemp("converted")
        line = [sys.executable, "-c", SCRIPT, str(folder)]
        done = subprocess.run(line, capture_output=True, text=True, check=True)
        made.append((folder, "\n".join(row for row in done.stdout.splitlines() if row.split(" ")[0] in RECIPES)))
    return made


def test_bytes_follow_from_the_program(twice: list[tuple[Path, str]]) -> None:
    (_, first), (_, second) = twice
    assert [row.split()[0] for row in first.splitlines()] == list(CONVERTER.recipes)
    assert first == second


def test_neither_day_nor_machine_is_in_the_asset(twice: list[tuple[Path, str]]) -> None:
    for folder, _ in twice:
        for path in (p for p in folder.rglob("*.aimodel/*") if p.is_file()):
            content = path.read_bytes()
            assert b"creationDate" not in content
            assert str(folder).encode() not in content
            assert b"site-packages" not in content


def test_operations_are_not_numbered_for_debugging(twice: list[tuple[Path, str]]) -> None:
    from lvexport.validation.runtimes.coreai import open_asset

    for asset in twice[0][0].glob("*.aimodel"):
        opened = open_asset(asset)
        text = opened.program._module._mlir_module.operation.get_asm(enable_debug_info=True)
        assert "coreai.graph" in text
        assert "op_id" not in text


def test_the_interface_is_that_of_the_program(twice: list[tuple[Path, str]]) -> None:
    import numpy as np

    from lvexport.validation.runtimes.registry import RUNTIMES

    session = RUNTIMES["coreai"].load(twice[0][0] / "fp16.aimodel", 1)
    assert [(s.name, s.shape, s.dtype) for s in session.inputs] == [("picture", (1, 3, 16, 16), "float32")]
    assert [(s.name, s.shape, s.dtype) for s in session.outputs] == [("scores", (1, 96), "float32")]
    picture = np.ones((1, 3, 16, 16), np.float32)
    first, second = (session.run({"picture": picture})["scores"] for _ in range(2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, session.run({"picture": picture / 2})["scores"])
