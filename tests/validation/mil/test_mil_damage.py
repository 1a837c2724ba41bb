"""Packages come from elsewhere: damage is an error with a text, soon, and nothing outside the package is read."""

from __future__ import annotations

import contextlib
import json
import random
import shutil

import numpy as np
import pytest

from lvexport.validation import mil
from lvexport.validation.mil import protos
from lvexport.validation.mil.blobs import METADATA

X = np.random.default_rng(4).standard_normal((1, 3, 6, 6)).astype(np.float32)
W = np.random.default_rng(5).standard_normal((4, 3, 3, 3)).astype(np.float32)
SPEC = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


@pytest.fixture(scope="module")
def sound(save):
    def build(mb, x):
        made = mb.conv(x=x, weight=W, pad_type="custom", pad=[1, 1, 1, 1], name="made")
        return {"out": mb.relu(x=mb.pad(x=made, pad=[1, 1]))}

    return save(build, {"x": X})


@pytest.fixture
def package(sound, tmp_path):
    """A copy to damage."""
    return shutil.copytree(sound, tmp_path / "model.mlpackage")


def load_and_run(package):
    return mil.load(package).predict({"x": X})["out"]


def change_manifest(package, change):
    path = package / "Manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def change_spec(package, change):
    message = protos.parse_model(package / SPEC)
    change(message)
    (package / SPEC).write_bytes(message.SerializeToString())


def main_block(message):
    return message.mlProgram.functions["main"].block_specializations["CoreML7"]


def operation(message, kind):
    return next(operation for operation in main_block(message).operations if operation.type == kind)


def constant(message, name):
    return next(o for o in main_block(message).operations if o.outputs[0].name == name).attributes["val"]


def test_a_sound_package_is_read(package):
    assert load_and_run(package).shape == (1, 4, 6, 8)


@pytest.mark.parametrize("name", ["Manifest.json", SPEC, WEIGHTS])
def test_a_missing_file(package, name):
    (package / name).unlink()
    with pytest.raises(mil.DamagedPackage, match="lacks"):
        mil.load(package)


@pytest.mark.parametrize("name", ["Manifest.json", SPEC, WEIGHTS])
@pytest.mark.parametrize("share", [0, 0.3, 0.9])
def test_a_file_cut_short(package, name, share):
    data = (package / name).read_bytes()
    (package / name).write_bytes(data[: int(len(data) * share)])
    with pytest.raises(mil.DamagedPackage):
        mil.load(package)


def test_nothing_there(tmp_path):
    with pytest.raises(mil.DamagedPackage, match=r"no \.mlpackage folder"):
        mil.load(tmp_path / "absent.mlpackage")


@pytest.mark.parametrize(
    "path", ["../../../etc/passwd", "/etc/passwd", "com.apple.CoreML/../../../x", "", "a\\b", "a\0b"]
)
def test_a_path_that_leads_out_of_the_package(package, path):
    change_manifest(package, lambda m: m["itemInfoEntries"][m["rootModelIdentifier"]].update(path=path))
    with pytest.raises(mil.DamagedPackage, match="not allowed"):
        mil.load(package)


def test_a_link_that_leads_out_of_the_package(package, tmp_path):
    outside = tmp_path / "weight.bin"
    shutil.move(package / WEIGHTS, outside)
    (package / WEIGHTS).symlink_to(outside)
    with pytest.raises(mil.DamagedPackage, match="leads out"):
        mil.load(package)


@pytest.mark.parametrize("name", ["@model_path/../../../weight.bin", "/etc/passwd", "@model_path/model.mlmodel/x"])
def test_a_weight_file_outside(package, name):
    def change(message):
        for operation in main_block(message).operations:
            for value in operation.attributes.values():
                if value.WhichOneof("value") == "blobFileValue":
                    value.blobFileValue.fileName = name

    change_spec(package, change)
    with pytest.raises(mil.DamagedPackage):
        mil.load(package)


def test_a_manifest_without_the_weights(package):
    def change(manifest):
        entries = manifest["itemInfoEntries"]
        manifest["itemInfoEntries"] = {manifest["rootModelIdentifier"]: entries[manifest["rootModelIdentifier"]]}

    change_manifest(package, change)
    with pytest.raises(mil.DamagedPackage, match="does not list"):
        mil.load(package)


@pytest.mark.parametrize("offset", [0, 63, 65, 64 * 1000, 2**63, 2**64 - 64])
def test_an_offset_out_of_range(package, offset):
    change_spec(package, lambda m: setattr(constant(m, weight_name(m)).blobFileValue, "offset", offset))
    with pytest.raises(mil.DamagedPackage, match="no array can be described there"):
        mil.load(package)


def weight_name(message):
    return operation(message, "conv").inputs["weight"].arguments[0].name


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (0, 0xDEADBEE0, "sentinel"),
        (1, 1, "expects fp32 and the file holds fp16"),
        (1, 99, "unknown type 99"),
        (2, 2**60, "do not take"),
        (3, 2**62, "lie outside"),
        (3, 0, "lie outside"),
    ],
)
def test_a_damaged_description_of_an_array(package, field, value, message):
    data = bytearray((package / WEIGHTS).read_bytes())
    fields = list(METADATA.unpack_from(data, 64))
    fields[field] = value
    METADATA.pack_into(data, 64, *fields)
    (package / WEIGHTS).write_bytes(data)
    with pytest.raises(mil.DamagedPackage, match=message):
        mil.load(package)


def set_pad(message, value):
    name = operation(message, "pad").inputs["pad"].arguments[0].name
    constant(message, name).immediateValue.tensor.ints.values[0] = value


def optional(message, size):
    message.description.input[0].type.isOptional = True
    message.description.input[0].type.multiArrayType.shape[0] = size


CHANGES = {
    "huge dimension": (
        lambda m: setattr(operation(m, "conv").outputs[0].type.tensorType.dimensions[1].constant, "size", 2**50),
        "nothing on a phone is so large",
    ),
    "other dimension": (
        lambda m: setattr(operation(m, "conv").outputs[0].type.tensorType.dimensions[1].constant, "size", 5),
        "declares .* as the result of conv",
    ),
    "other element type": (
        lambda m: setattr(operation(m, "relu").outputs[0].type.tensorType, "dataType", 23),
        "declares int32",
    ),
    "unknown element type": (
        lambda m: setattr(operation(m, "relu").outputs[0].type.tensorType, "dataType", 77),
        "element type that MIL does not have",
    ),
    "type that nothing writes": (
        lambda m: setattr(operation(m, "relu").outputs[0].type.tensorType, "dataType", 13),
        "BFLOAT16",
    ),
    "rank": (lambda m: setattr(operation(m, "relu").outputs[0].type.tensorType, "rank", 7), "rank 7"),
    "huge padding": (lambda m: set_pad(m, 2**30), "declares .* as the result of pad"),
    "negative padding": (lambda m: set_pad(m, -20), "as the result of pad"),
    "constant too short": (
        lambda m: constant(
            m, operation(m, "pad").inputs["pad"].arguments[0].name
        ).immediateValue.tensor.ints.values.pop(),
        "with 1 elements",
    ),
    "unknown value": (
        lambda m: setattr(operation(m, "relu").inputs["x"].arguments[0], "name", "ghost"),
        "'ghost' before anything made it",
    ),
    "value defined twice": (
        lambda m: setattr(operation(m, "relu").outputs[0], "name", "made"),
        "a second time",
    ),
    "unknown parameter": (
        lambda m: operation(m, "relu").inputs["ghost"].CopyFrom(operation(m, "relu").inputs["x"]),
        "has ghost, which it does not take",
    ),
    "lacking parameter": (lambda m: operation(m, "conv").inputs.pop("weight"), "lacks weight"),
    "parameter of another type": (
        lambda m: setattr(operation(m, "pad").inputs["pad"].arguments[0], "name", weight_name(m)),
        "elements of type float32 are given where integers should be",
    ),
    "text for a tensor": (
        lambda m: setattr(
            operation(m, "relu").inputs["x"].arguments[0],
            "name",
            operation(m, "conv").inputs["pad_type"].arguments[0].name,
        ),
        "text is given where a tensor is expected",
    ),
    "unknown opset": (lambda m: setattr(m.mlProgram.functions["main"], "opset", "CoreML77"), "no such block"),
    "no main": (lambda m: m.mlProgram.functions.pop("main"), "no function 'main'"),
    "no model": (lambda m: m.ClearField("mlProgram"), "holds no model"),
    "neural network": (lambda m: m.neuralNetwork.SetInParent(), "kind 'neuralNetwork'"),
    "pipeline": (lambda m: m.pipeline.SetInParent(), "kind 'pipeline'"),
    "undescribed input": (lambda m: m.description.ClearField("input"), "model description lacks: x"),
    "output that is not made": (lambda m: setattr(m.description.output[0], "name", "ghost"), "'ghost'"),
    "image output": (lambda m: m.description.output[0].type.imageType.SetInParent(), "a color space that Core ML"),
    "custom layer": (lambda m: setattr(operation(m, "relu"), "type", "custom_layer"), "1 custom layers"),
    "blocks": (lambda m: operation(m, "relu").blocks.add(), "relu .* has 1 blocks; it takes none"),
    "branches without blocks": (
        lambda m: setattr(operation(m, "relu"), "type", "cond"),
        r"cond .* has 0 blocks; it takes 2",
    ),
    "huge default": (lambda m: optional(m, 2**40), "is described with the shape"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_specification_that_contradicts_itself(package, name):
    change, message = CHANGES[name]
    change_spec(package, change)
    with pytest.raises(mil.MilError, match=message):
        load_and_run(package)


def test_random_damage_never_raises_anything_else(sound, tmp_path):
    chance = random.Random(8)
    for trial in range(60):
        package = shutil.copytree(sound, tmp_path / f"{trial}.mlpackage")
        path = package / chance.choice(["Manifest.json", SPEC, SPEC, WEIGHTS])
        data = bytearray(path.read_bytes())
        for _ in range(chance.choice([1, 1, 8])):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        with contextlib.suppress(mil.MilError):
            load_and_run(package)


def test_a_weight_changed_in_the_file_changes_the_result(package):
    """The weights are read back from the file, and nowhere else do they come from."""
    before = load_and_run(package)
    data = bytearray((package / WEIGHTS).read_bytes())
    start = METADATA.unpack_from(data, 64)[3]
    weight = np.frombuffer(data, dtype="<f4", count=W.size, offset=start)
    np.testing.assert_array_equal(weight, W.reshape(-1))
    data[start : start + 4 * W.size] = (weight * np.float32(1.05)).tobytes()
    (package / WEIGHTS).write_bytes(data)
    np.testing.assert_allclose(load_and_run(package), before * 1.05, rtol=1e-4, atol=1e-5)
