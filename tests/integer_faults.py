"""Faults of scales and zero points as a broken converter would make them, planted into finished artifacts."""

from __future__ import annotations

import hashlib
import re
import shutil
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

import lvexport
from lvexport import golden
from lvexport.bundle import GOLDEN
from lvexport.manifest import ArtifactInfo
from lvexport.validation.integers.layers import Layer, unpacked
from tests.faults import record_again

Fault = Callable[[Path, Layer], None]


def content_of(artifact: Path) -> Path:
    """The file of an artifact that scales of weights lie in."""
    folders = {".mlpackage": "weight.bin", ".aimodel": "main.mlirb"}
    return next(artifact.rglob(folders[artifact.suffix])) if artifact.suffix in folders else artifact


def change_scales(artifact: Path, layer: Layer, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change the scales of a layer's weights where they lie in the file."""
    path = content_of(artifact)
    content = path.read_bytes()
    for kind in (np.float32, np.float16):
        old = layer.scales.astype(kind)
        if (at := content.find(old.tobytes())) >= 0:
            new = change(old).astype(kind).tobytes()
            assert new != old.tobytes()
            path.write_bytes(content[:at] + new + content[at + len(new) :])
            if (stored := path.with_name("main.hash")).exists():
                stored.write_bytes(hashlib.sha256(path.read_bytes()).digest())
            return
    raise AssertionError(f"the scales of {layer.name} are not in {path}")


def swap_two(scales: np.ndarray) -> np.ndarray:
    swapped = scales.copy()
    low, high = scales.argmin(), scales.argmax()
    swapped[[low, high]] = scales[[high, low]]
    return swapped


def swapped_scales(artifact: Path, layer: Layer) -> None:
    change_scales(artifact, layer, swap_two)


def scales_along_another_axis(artifact: Path, layer: Layer) -> None:
    """Each channel is given the scale of another, as where they are counted along the wrong axis."""
    change_scales(artifact, layer, lambda scales: np.roll(scales, 1))


def wrong_zero_point(artifact: Path, layer: Layer) -> None:
    """The layer takes its input for numbers one step away from those that were rounded."""
    by_suffix = {".tflite": _tflite, ".onnx": _onnx, ".pte": _pte, ".mlpackage": _coreml, ".aimodel": _coreai}
    by_suffix[artifact.suffix](artifact, layer)


def _tflite(artifact: Path, layer: Layer) -> None:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(artifact.read_bytes(), 0)
    graph = model.subgraphs[0]
    for operator in graph.operators:
        given = graph.tensors[operator.inputs[0]].quantization
        weights = graph.tensors[operator.inputs[1]].quantization if len(operator.inputs) > 1 else None
        if weights is None or weights.scale is None or given is None or len(weights.scale) != len(layer.scales):
            continue
        if np.allclose(weights.scale, layer.scales, rtol=1e-6):
            given.zeroPoint = [given.zeroPoint[0] + 1]
            builder = flatbuffers.Builder()
            builder.Finish(model.Pack(builder), b"TFL3")
            artifact.write_bytes(bytes(builder.Output()))
            return
    raise AssertionError(f"{layer.name} is not in {artifact}")


def _onnx(artifact: Path, layer: Layer) -> None:
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(artifact))
    constants = {t.name: t for t in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        scaled = producers.get(node.input[1]) if node.op_type in ("Conv", "Gemm") else None
        if scaled is None:
            continue
        scales = numpy_helper.to_array(constants[scaled.input[1]])
        if scales.shape == layer.scales.shape and np.allclose(scales, layer.scales, rtol=1e-6):
            reading = producers[node.input[0]]
            points = numpy_helper.to_array(constants[reading.input[2]])
            moved = points + points.dtype.type(1)
            model.graph.initializer.append(numpy_helper.from_array(moved, "moved"))
            reading.input[2] = "moved"
            onnx.save(model, str(artifact))
            return
    raise AssertionError(f"{layer.name} is not in {artifact}")


def _pte(artifact: Path, layer: Layer) -> None:
    """Both numbers of a grid lie beside each other in the delegate of XNNPACK, in either order."""
    assert layer.given is not None
    scale, zero_point = struct.pack("<f", layer.given[0]), struct.pack("<i", layer.given[1])
    content = artifact.read_bytes()
    if b"CoreMLBackend" in content:
        _in_delegate(artifact, layer)
        return
    for old in (scale + zero_point, zero_point + scale):
        if old in content:
            moved = struct.pack("<i", layer.given[1] + 1)
            new = scale + moved if old.startswith(scale) else moved + scale
            artifact.write_bytes(content.replace(old, new))
            return
    raise AssertionError(f"the grid of {layer.name} is not in {artifact}")


def _coreml(artifact: Path, layer: Layer) -> None:
    path = next(artifact.rglob("*.mlmodel"))
    path.write_bytes(_moved(path.read_bytes(), layer))


def _in_delegate(artifact: Path, layer: Layer) -> None:
    """The same in the Core ML package that a program holds."""
    from lvexport.validation.runtimes.executorch_coreml import Held

    with Held(artifact).unpacked() as folder:
        model = next(folder.rglob("*.mlmodel")).read_bytes()
    content, changed = artifact.read_bytes(), _moved(model, layer)
    assert content.count(model) == 1
    assert len(changed) == len(model)
    artifact.write_bytes(content.replace(model, changed))


def _moved(content: bytes, layer: Layer) -> bytes:
    """A Core ML program in which a layer is given a zero point that is off by one."""
    from coremltools.proto import Model_pb2

    assert layer.given is not None
    model = Model_pb2.Model()
    model.ParseFromString(content)
    (function,) = model.mlProgram.functions.values()
    (block,) = function.block_specializations.values()
    constants = {o.outputs[0].name: o.attributes["val"] for o in block.operations if o.type == "const"}

    def tensor(operation: Any, parameter: str) -> Any:
        argument = operation.inputs[parameter].arguments[0]
        return (constants[argument.name] if argument.name else argument.value).immediateValue.tensor

    for operation in block.operations:
        if operation.type != "dequantize" or "zero_point" not in operation.inputs:
            continue
        scale = np.frombuffer(tensor(operation, "scale").bytes.values, np.float16)
        if np.isclose(scale[0], layer.given[0], rtol=2**-10):
            zero_point = tensor(operation, "zero_point").bytes
            zero_point.values = bytes([(zero_point.values[0] + 1) & 255])
            return bytes(model.SerializeToString(deterministic=True))
    raise AssertionError(f"the grid of {layer.name} is not in the program")


def _coreai(artifact: Path, layer: Layer) -> None:
    """Give one operation that reads numbers off the layer's grid a zero point of its own."""
    from coreai._compiler.ir import Module
    from coreai.authoring import AIModelAsset

    assert layer.given is not None
    asset = AIModelAsset.load(artifact)
    program = asset.program
    module = program._module._mlir_module
    text = module.operation.get_asm(print_generic_op_form=False, enable_debug_info=False)
    known = dict(re.findall(r"(%\w+) = coreai.constant dense<([^<>]+)> : tensor<(?:f32|si8)>", text))
    for found in re.finditer(r"\n +%\w+ = coreai.dequantize %\w+, (%\w+), (%\w+),", text):
        scale, point = (known[found[i]] for i in (1, 2))
        if np.isclose(float(scale), layer.given[0], rtol=1e-5) and int(point) == layer.given[1]:
            own = f"\n %moved = coreai.constant dense<{int(point) + 1}> : tensor<si8>"
            line = found[0].replace(f", {found[2]},", ", %moved,")
            changed = text[: found.start()] + own + line + text[found.end() :]
            made = type(program)._from_mlir_module(Module.parse(changed, module.context))
            shutil.rmtree(artifact)
            made.save_asset(artifact)
            return
    raise AssertionError(f"the grid of {layer.name} is not in {artifact}")


FAULTS: tuple[Fault, ...] = (wrong_zero_point, swapped_scales, scales_along_another_axis)


def with_faults(
    made: lvexport.Bundle, targets: Iterable[str], fault: Fault, folder: Path
) -> dict[str, tuple[ArtifactInfo, Layer]]:
    """What is found of the artifacts in a copy of a bundle, in each of which one layer is broken, and that layer."""
    copy = folder / made.path.name
    shutil.copytree(made.path, copy)
    broken = {}
    for found in (a for a in made.results if a.target in targets):
        assert found.path is not None
        assert found.network is not None
        layers = unpacked(golden.layers(copy / GOLDEN, found.network))
        shifted = [layer for layer in layers if layer.given is not None and layer.given[1] not in (0, -128)]
        broken[found.target] = max(shifted or layers, key=lambda one: len(np.unique(one.scales)))
        fault(copy / found.path, broken[found.target])
        record_again(copy, found.path)
    judged = {a.target: a for a in lvexport.verify(copy).results}
    return {target: (judged[target], layer) for target, layer in broken.items()}


def assert_named(judged: ArtifactInfo, layer: Layer) -> None:
    """The verdict fails, and names the layer that is broken."""
    assert judged.status == "failed"
    assert judged.verdict is not None
    assert judged.verdict.compression is not None
    assert judged.verdict.compression.layers is not None
    assert layer.name in judged.verdict.compression.layers.wrong
