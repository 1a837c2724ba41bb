"""Core ML packages that lvexport did not make, verified against a script; and faults planted into them, caught."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lvexport.validation.mil import protos
from tests.conftest import Run

SIDE, CLASSES = 32, 10
SPECIFICATION = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"
SCRIPT = """
import numpy as np
import torch
from torch import nn

class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        stored = np.load({path!r})
        self.register_buffer("kernel", torch.from_numpy(stored["lut"][stored["indices"]]))
        self.register_buffer("matrix", torch.from_numpy(stored["matrix"]))

    def forward(self, x):
        x = nn.functional.relu(nn.functional.conv2d(x, self.kernel, stride=2))
        return nn.functional.linear(x.mean((2, 3)), self.matrix)

model = Classifier
"""


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A package by coremltools' builder (palettized, pictures in, a label out), the original's script, its labels."""
    folder = tmp_path_factory.mktemp("foreign")
    chance = np.random.default_rng(11)
    indices = chance.integers(0, 16, (16, 3, 3, 3)).astype(np.uint8)
    lut = chance.standard_normal(16).astype(np.float32)
    matrix = (10 * chance.standard_normal((CLASSES, 16))).astype(np.float32)
    np.savez(folder / "stored.npz", indices=indices, lut=lut, matrix=matrix)
    (folder / "original.py").write_text(SCRIPT.format(path=str(folder / "stored.npz")))
    labels = [f"class {i}" for i in range(CLASSES)]
    (folder / "labels.txt").write_text("\n".join(labels))
    save(folder / "foreign.mlpackage", indices, lut, matrix, labels)
    return folder / "foreign.mlpackage", folder / "original.py", folder / "labels.txt"


def save(path: Path, indices: Any, lut: Any, matrix: Any, labels: list[str]) -> None:
    import coremltools as ct
    from coremltools.converters.mil import mil as pymil
    from coremltools.converters.mil.mil import Builder, types

    program = pymil.Program()
    picture = Builder.placeholder((1, 3, SIDE, SIDE), types.fp32)
    with pymil.Function({"picture": picture}, opset_version=ct.target.iOS18) as function:
        kernel = Builder.constexpr_lut_to_dense(
            indices=indices.astype(types.nptype_from_builtin(types.uint4)), lut=lut.reshape(1, 1, 1, 1, 16, 1)
        )
        x = Builder.conv(x=function.inputs["picture"], weight=kernel, strides=[2, 2], pad_type="valid")
        x = Builder.reduce_mean(x=Builder.relu(x=x), axes=[2, 3], keep_dims=False)
        function.set_outputs([Builder.softmax(x=Builder.linear(x=x, weight=matrix), axis=-1, name="odds")])
        program.add_function("main", function)
    converted = ct.convert(
        program,
        source="milinternal",
        convert_to="mlprogram",
        inputs=[ct.ImageType(name="picture", shape=(1, 3, SIDE, SIDE), scale=1 / 255)],
        classifier_config=ct.ClassifierConfig(labels),
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT32,
        pass_pipeline=ct.PassPipeline.EMPTY,
        skip_model_load=True,
    )
    converted.save(str(path))


def change_specification(package: Path, change: Callable[[Any], None]) -> None:
    message = protos.parse_model(package / SPECIFICATION)
    change(message)
    (package / SPECIFICATION).write_bytes(message.SerializeToString())


def operation(message: Any, kind: str) -> Any:
    (block,) = message.mlProgram.functions["main"].block_specializations.values()
    return next(operation for operation in block.operations if operation.type == kind)


def alter_lut_entry(package: Path) -> None:
    stored = np.load(package.parent.parent / "stored.npz")["lut"].tobytes()
    data = bytearray((package / WEIGHTS).read_bytes())
    start = data.find(stored)
    assert start > 0
    entry = np.frombuffer(stored, np.float32)[5] * 1.05
    data[start + 20 : start + 24] = np.float32(entry).tobytes()
    (package / WEIGHTS).write_bytes(data)


def swap_channels(package: Path) -> None:
    def change(message: Any) -> None:
        message.description.input[0].type.imageType.colorSpace = 30  # BGR, in the place of RGB

    change_specification(package, change)


def shift_labels(package: Path) -> None:
    def change(message: Any) -> None:
        values = operation(message, "classify").inputs["classes"].arguments[0].value.immediateValue.list.values
        values.append(values.pop(0))

    change_specification(package, change)


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "an altered LUT entry": (alter_lut_entry, "does not compute"),
    "swapped channels": (swap_channels, "does not compute"),
    "labels shifted by one": (
        shift_labels,
        "it calls 10 of 10 classes by other labels than the original does: class 0 is 'class 1'",
    ),
}


def verified(package: Path, script: Path, labels: Path, lvexport: Run) -> Any:
    said = ("--mean", "0,0,0", "--std", "1,1,1", "--labels", labels)
    return lvexport("verify", package, "--against", f"{script}:model", *said, "--samples", "40")


def test_a_foreign_package_is_verified(foreign: tuple[Path, Path, Path], lvexport: Run) -> None:
    done = verified(*foreign, lvexport)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_a_foreign_package_is_caught(fault: str, foreign: tuple[Path, Path, Path], lvexport: Run) -> None:
    package, script, labels = foreign
    plant, message = FAULTS[fault]
    copy = shutil.copytree(package, package.parent / fault.replace(" ", "-") / package.name)
    plant(copy)
    done = verified(copy, script, labels, lvexport)
    assert done.returncode == 1, done.stdout + done.stderr
    assert message in " ".join(done.stderr.split())
