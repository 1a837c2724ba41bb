"""Packages that take and return pictures, in every layout, verified against a script; and faults in them, caught."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lvexport.validation.mil import protos
from tests.conftest import Run

SIDE = 32
SPECIFICATION = "Data/com.apple.CoreML/model.mlmodel"
SCRIPT = """
import torch
from torch import nn

class Painter(nn.Module):
    def __init__(self, taken, made):
        super().__init__()
        torch.manual_seed(0)
        self.mix = nn.Conv2d(taken, made, 3, padding=1)

    def forward(self, x):
        return 127.5 + 60 * torch.tanh(3 * self.mix(x))

def grey_to_colour():
    return Painter(1, 3)

def colour_to_grey():
    return Painter(3, 1)

def grey_to_grey():
    return Painter(1, 1)
"""
# Factory → the layouts of its input and its output
LAYOUTS = {
    "grey_to_colour": ("GRAYSCALE", "RGB"),
    "colour_to_grey": ("BGR", "GRAYSCALE_FLOAT16"),
    "grey_to_grey": ("GRAYSCALE_FLOAT16", "GRAYSCALE"),
}
BGR = 30  # ``ImageFeatureType.ColorSpace``
RGB = 20


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the script ``original.py`` and a package for each of its factories, by coremltools' converter."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "original.py").write_text(SCRIPT)
    names: dict[str, Any] = {}
    exec(SCRIPT, names)
    for factory, layouts in LAYOUTS.items():
        convert(names[factory]().eval(), *layouts).save(str(folder / f"{factory}.mlpackage"))
    return folder


def convert(model: Any, taken: str, returned: str) -> Any:
    import coremltools as ct
    import torch

    if taken == "BGR":  # the program receives the channels so, and the original wants them the other way round
        model.mix.weight.data = model.mix.weight.data.flip(1)
    shape = (1, model.mix.in_channels, SIDE, SIDE)
    bias: Any = -1.0 if shape[1] == 1 else [-1.0] * 3
    layout = getattr(ct.colorlayout, taken)
    image = ct.ImageType(name="image", shape=shape, color_layout=layout, scale=1 / 127.5, bias=bias)
    return ct.convert(
        torch.jit.trace(model, torch.zeros(shape)),
        inputs=[image],
        outputs=[ct.ImageType(name="painted", color_layout=getattr(ct.colorlayout, returned))],
        minimum_deployment_target=ct.target.iOS17,
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )


def verified(package: Path, factory: str, lvexport: Run) -> Any:
    original = f"{package.parent / 'original.py'}:{factory}"
    said = ("--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5", "--samples", "12", "--recipe")
    return lvexport(
        "verify", package, "--against", original, *said, "fp16" if "FLOAT16" in LAYOUTS[factory][1] else "fp32"
    )


@pytest.mark.parametrize("factory", LAYOUTS)
def test_a_package_of_pictures_is_verified(factory: str, foreign: Path, lvexport: Run) -> None:
    done = verified(foreign / f"{factory}.mlpackage", factory, lvexport)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "real images: Fashion-MNIST" in done.stdout


def another_scale(message: Any) -> None:
    """That of the input, by a twentieth."""
    (block,) = message.mlProgram.functions["main"].block_specializations.values()
    scaled = next(operation for operation in block.operations if operation.type == "mul")
    names = {argument.name for value in scaled.inputs.values() for argument in value.arguments}
    constant = next(o for o in block.operations if o.type == "const" and o.outputs[0].name in names)
    values = constant.attributes["val"].immediateValue.tensor.floats.values
    assert abs(values[0] * 127.5 - 1) < 1e-6
    values[0] *= 1.05


def swapped_output(message: Any) -> None:
    message.description.output[0].type.imageType.colorSpace = BGR


def swapped_input(message: Any) -> None:
    message.description.input[0].type.imageType.colorSpace = RGB


@pytest.mark.parametrize(
    ("factory", "plant"),
    [("grey_to_colour", another_scale), ("grey_to_colour", swapped_output), ("colour_to_grey", swapped_input)],
)
def test_a_fault_in_a_package_of_pictures_is_caught(
    factory: str, plant: Callable[[Any], None], foreign: Path, tmp_path: Path, lvexport: Run
) -> None:
    folder = shutil.copytree(foreign, tmp_path / "pictures")
    package = folder / f"{factory}.mlpackage"
    message = protos.parse_model(package / SPECIFICATION)
    plant(message)
    (package / SPECIFICATION).write_bytes(message.SerializeToString())
    done = verified(package, factory, lvexport)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "does not compute what the original computes" in " ".join(done.stderr.split())
