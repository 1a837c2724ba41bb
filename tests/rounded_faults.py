"""Faults of integer weights as a broken converter would make them, planted into finished artifacts."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from lvexport.api import in_memory
from lvexport.calibration import lay_down
from lvexport.capture import realise
from lvexport.cell import batches
from lvexport.converters.compression import Quantized, compress, recovered, weights
from lvexport.converters.contract import TensorSpec
from lvexport.converters.derived import constant
from lvexport.converters.registry import CONVERTERS
from lvexport.converters.rewrites.apply import rewritten
from lvexport.plan import Cell, default_rewrites
from lvexport.source import resolve
from lvexport.validation.sample import shipped
from tests.faults import is_demo
from tests.networks import SIDE, wide

SHIFT = 3  # of a zero point
# How files lay a weight out: rows of outputs, or columns.
LAYOUTS: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = (lambda rows: rows, lambda rows: rows.T)


def few_pictures(folder: Path) -> Path:
    """Calibration inputs, so few that weights are fitted to them in seconds."""
    np.savez(folder / "few.npz", pixels=shipped(64, "calibration").pixels)
    return folder / "few.npz"


@cache
def rounded(recipe: str, target: str, demo: bool = True) -> tuple[Quantized, ...]:
    """The square weights of a network, as a target's recipe rounds them; for these any axis fits.

    Calibrated with :func:`few_pictures`.
    """
    model = realise(resolve("mobilevit_xxs", "demo", None, None)).model if demo else wide()
    source = resolve("mobilevit_xxs", "demo", None, None) if demo else in_memory(model, SIDE, "wide")
    found, side = CONVERTERS[target].recipes[recipe], source.imgsz
    integers, given = found.weights, torch.rand(1, 3, side, side)
    assert integers is not None
    program = torch.export.export(model, (given,))
    module, _ = rewritten(program, default_rewrites(Cell(target, recipe, ()), source.family))
    with TemporaryDirectory() as folder:
        specs = (TensorSpec("image", (1, 3, side, side), "float32"),)
        drawn = lay_down(source, specs, few_pictures(Path(folder)), Path(folder, "calibration")).inputs
        fitted_over = batches(drawn, drawn.count if found.fitted else 0)
    module = compress(module, (given,), integers, fitted_over).module()  # type: ignore[assignment]
    squares = (recovered(constant(module, node), integers) for node in weights(module))
    return tuple(q for q in squares if q is not None and q.data.ndim == 2 and q.data.shape[0] == q.data.shape[1])


def stored(data: torch.Tensor, bits: int, offset: int = 0) -> bytes:
    """Integers as files have them: of four bits, the first of two in the lower half of a byte."""
    flat = data.contiguous().numpy().reshape(-1) + np.int8(offset)
    return flat.tobytes() if bits == 8 else ((flat[0::2] & 15) | (flat[1::2] << 4)).astype(np.uint8).tobytes()


def shifted(q: Quantized) -> torch.Tensor:
    """The integers that mean what those of the weight mean with a wrong zero point."""
    return clipped(q.data + SHIFT, q)


def across(q: Quantized) -> torch.Tensor:
    """The integers that mean, with scales of the rows, what those of the weight mean with the scales as of columns."""
    scale = q.scale.repeat_interleave(q.data.shape[1] // q.scale.shape[1], dim=1)
    return clipped((q.data * scale.T / scale).round(), q)


def clipped(data: torch.Tensor, q: Quantized) -> torch.Tensor:
    largest = 2 ** (q.bits - 1) - 1
    return data.clamp(-largest, largest).to(torch.int8)


def replace_integers(
    file: Path, recipe: str, change: Callable[[Quantized], torch.Tensor], target: str, offset: int = 0
) -> None:
    """Change the integers of a weight where they lie in the file. ``offset``: of each, there."""
    content = bytearray(file.read_bytes())
    for q, turn in product(rounded(recipe, target, is_demo(file)), LAYOUTS):
        old, new = (stored(turn(data), q.bits, offset) for data in (q.data, change(q)))
        at = content.find(old)
        if at >= 0:
            assert new != old
            content[at : at + len(old)] = new
            file.write_bytes(content)
            return
    raise AssertionError(f"no integers of the network were found in {file}")


def swap(values: np.ndarray) -> None:
    """Let the largest and the smallest of several scales change places."""
    flat = values.reshape(-1)
    low, high = flat.argmin(), flat.argmax()
    flat[[low, high]] = flat[[high, low]]


def swap_floats(file: Path, recipe: str, target: str) -> None:
    """Swap two scales of a weight, single-precision numbers, where they lie in the file."""
    content = bytearray(file.read_bytes())
    for q, turn in product(rounded(recipe, target, is_demo(file)), LAYOUTS):
        old = turn(q.scale).contiguous().numpy().copy()
        at = content.find(old.tobytes())
        if at >= 0:
            length = old.nbytes
            swap(old)
            content[at : at + length] = old.tobytes()
            file.write_bytes(content)
            return
    raise AssertionError(f"no scales of the network were found in {file}")


def swap_scales_of_blocks(file: Path, target: str, kind: torch.dtype) -> None:
    """Swap two scales of a weight in blocks of 4-bit integers, numbers of 16 bits, where they lie in the file."""
    content = bytearray(file.read_bytes())
    for q in rounded("w4", target, is_demo(file)):
        scale = q.scale.flatten(1).contiguous()
        old = scale.to(kind).view(torch.int16).numpy().tobytes()
        if scale.shape[1] > 1 and (at := content.find(old)) >= 0:
            changed = scale.numpy().copy()
            swap(changed)
            content[at : at + len(old)] = torch.from_numpy(changed).to(kind).view(torch.int16).numpy().tobytes()
            file.write_bytes(content)
            return
    raise AssertionError(f"no scales of blocks were found in {file}")


def four_bits(target: str, kind: torch.dtype, offset: int) -> dict[str, Callable[[Path], None]]:
    """Faults of a target that rounds in its own way. ``kind``: of blocks' scales; ``offset``: added to integers."""
    return {
        "zero point": lambda a: replace_integers(a, "w4", shifted, target, offset),
        "swapped scales": lambda a: swap_scales_of_blocks(a, target, kind),
        "axis": lambda a: replace_integers(a, "w4", across, target, offset),
    }


def in_asset(change: Callable[[Path], None]) -> Callable[[Path], None]:
    """Do something to the program of a Core AI asset."""

    def changed(artifact: Path) -> None:
        program = artifact / "main.mlirb"
        change(program)
        (artifact / "main.hash").write_bytes(hashlib.sha256(program.read_bytes()).digest())

    return changed


def dequantized(spec: Any, square: bool) -> Iterator[Any]:
    """The operations of a Core ML package that spell out weights, or only square ones of two dimensions."""
    main = spec.mlProgram.functions["main"]
    for operation in main.block_specializations[main.opset].operations:
        if operation.type.startswith("constexpr"):
            of = parameters(operation)
            data = of["quantized_data" if "quantized_data" in of else "data"]
            sizes = [d.constant.size for d in data.type.tensorType.dimensions]
            if not square or (len(sizes) == 2 and sizes[0] == sizes[1]):
                yield operation


def parameters(operation: Any) -> dict[str, Any]:
    """Those that lie in attributes, up to iOS 17, and in inputs from iOS 18 on."""
    return dict(operation.attributes) | {k: v.arguments[0].value for k, v in operation.inputs.items()}


def change_blob(artifact: Path, value: Any, dtype: type, change: Callable[[np.ndarray], None]) -> None:
    """Change an array of the package's weight file (its header says at which offset the numbers lie)."""
    path = artifact / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"
    content = bytearray(path.read_bytes())
    _, _, size, offset = struct.unpack_from("<IIQQ", content, value.blobFileValue.offset)
    numbers = np.frombuffer(bytes(content[offset : offset + size]), dtype).copy()
    change(numbers)
    content[offset : offset + size] = numbers.tobytes()
    path.write_bytes(content)


def of_package(artifact: Path) -> tuple[Any, Any, Path]:
    from coremltools.proto import Model_pb2

    path = artifact / "Data" / "com.apple.CoreML" / "model.mlmodel"
    spec = Model_pb2.Model()
    spec.ParseFromString(path.read_bytes())
    return spec, next(dequantized(spec, square=True)), path


def swap_scales_coreml(artifact: Path) -> None:
    _, operation, _ = of_package(artifact)
    change_blob(artifact, parameters(operation)["scale"], np.float16, swap)


def shift_zero_points_coreml(artifact: Path) -> None:
    """Of all weights: that of a single projection does less than half precision's own rounding."""

    def shift(points: np.ndarray) -> None:
        points += SHIFT

    for operation in dequantized(of_package(artifact)[0], square=False):
        change_blob(artifact, parameters(operation)["zero_point"], np.int8, shift)


def turn_axis_coreml(artifact: Path) -> None:
    spec, operation, path = of_package(artifact)
    operation.attributes["axis"].immediateValue.tensor.ints.values[0] = 1
    path.write_bytes(spec.SerializeToString(deterministic=True))


def other_places_coreml(artifact: Path) -> None:
    """Let each number of a weight be the one beside it in the palette."""
    from coremltools.proto import Model_pb2

    def turn(places: np.ndarray) -> None:
        places ^= 0x11  # two in a byte

    spec = Model_pb2.Model()
    spec.ParseFromString((artifact / "Data" / "com.apple.CoreML" / "model.mlmodel").read_bytes())
    main = spec.mlProgram.functions["main"]
    operations = main.block_specializations[main.opset].operations
    operation = next(o for o in operations if o.type == "constexpr_lut_to_dense")
    change_blob(artifact, parameters(operation)["indices"], np.uint8, turn)


def weight_file(artifact: Path) -> Path:
    return artifact / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"


# Target and recipe → the faults that its artifacts are given.
FAULTS: dict[tuple[str, str], dict[str, Callable[[Path], None]]] = {
    ("coreml", "w8"): {
        "zero point": shift_zero_points_coreml,
        "swapped scales": swap_scales_coreml,
        "axis": turn_axis_coreml,
    },
    ("coreml", "w4"): {
        "zero point": lambda a: replace_integers(weight_file(a), "w4", shifted, "coreml"),
        "swapped scales": swap_scales_coreml,
        "axis": lambda a: replace_integers(weight_file(a), "w4", across, "coreml"),
    },
    ("coreml", "p4"): {"places": other_places_coreml},
    ("executorch:coreml", "w8"): {
        "zero point": lambda a: replace_integers(a, "w8", shifted, "executorch:coreml"),
        "axis": lambda a: replace_integers(a, "w8", across, "executorch:coreml"),
    },
    **{
        (target, recipe): {
            "zero point": lambda a, r=recipe, t=target: replace_integers(a, r, shifted, t),  # type: ignore[misc]
            "swapped scales": lambda a, r=recipe, t=target: swap_floats(a, r, t),  # type: ignore[misc]
            "axis": lambda a, r=recipe, t=target: replace_integers(a, r, across, t),  # type: ignore[misc]
        }
        for target, recipe in (("onnx", "w8"), ("onnx", "w4"), ("tflite", "w8"), ("executorch", "w8"))
    },
    ("tflite", "w4"): four_bits("tflite", torch.float16, 0),
    ("executorch", "w4"): four_bits("executorch", torch.bfloat16, 8),
    **{
        ("coreai", recipe): {
            "zero point": in_asset(lambda a, r=recipe: replace_integers(a, r, shifted, "coreai")),  # type: ignore[misc]
            "swapped scales": in_asset(lambda a, r=recipe: swap_floats(a, r, "coreai")),  # type: ignore[misc]
            "axis": in_asset(lambda a, r=recipe: replace_integers(a, r, across, "coreai")),  # type: ignore[misc]
        }
        for recipe in ("w8", "w4")
    },
}
