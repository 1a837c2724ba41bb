"""Faults as a broken converter would make them, planted into finished artifacts; other tests see them caught."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lvexport import bundle as bundles
from lvexport import files
from lvexport.models.build import build
from tests.networks import wide

FACTOR = 1.05


def is_demo(artifact: Path) -> bool:
    """Whether this lies in the bundle of the demo; else it is in that of a small network (``networks.wide``)."""
    return any(part.startswith("mobilevit_xxs-demo") for part in artifact.parts)


def scale_onnx(artifact: Path) -> None:
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(artifact))
    tensor = max(model.graph.initializer, key=lambda t: int(np.prod(t.dims)))
    scaled = (numpy_helper.to_array(tensor) * FACTOR).astype(numpy_helper.to_array(tensor).dtype)
    tensor.CopyFrom(numpy_helper.from_array(scaled, tensor.name))
    onnx.save(model, str(artifact))


def scale_in_place(file: Path) -> None:
    """Scale one of the network's own weight tensors where its bytes lie in the file."""
    content = bytearray(file.read_bytes())
    network = build("mobilevit_xxs", weights="demo") if is_demo(file) else wide()
    for value in network.state_dict().values():
        if value.ndim < 2 or value.numel() < 1000:
            continue
        for dtype in (np.float32, np.float16):
            for array in (value.numpy(), np.moveaxis(value.numpy(), 0, -1), np.moveaxis(value.numpy(), 1, -1)):
                raw = np.ascontiguousarray(array.astype(dtype)).tobytes()
                at = content.find(raw)
                if at >= 0:
                    content[at : at + len(raw)] = (array.astype(dtype) * dtype(FACTOR)).astype(dtype).tobytes()
                    file.write_bytes(content)
                    return
    raise AssertionError(f"no weight of the network was found in {file}")


def scale_coreml(artifact: Path) -> None:
    scale_in_place(artifact / "Data" / "com.apple.CoreML" / "weights" / "weight.bin")


def scale_coreai(artifact: Path) -> None:
    program = artifact / "main.mlirb"
    scale_in_place(program)
    (artifact / "main.hash").write_bytes(hashlib.sha256(program.read_bytes()).digest())


SCALE: dict[str, Callable[[Path], None]] = {
    "coreml": scale_coreml,
    "tflite": scale_in_place,
    "executorch": scale_in_place,
    "onnx": scale_onnx,
    "coreai": scale_coreai,
    "executorch:coreml": scale_in_place,
}


def record_again(bundle: Path, artifact: str) -> None:
    """Write the artifact's digest into the manifest and SHA256SUMS, as a converter that made it so would have."""
    path = bundle / bundles.MANIFEST
    manifest = json.loads(path.read_text())
    for row in manifest["artifacts"]:
        if row["path"] == artifact:
            row["sha256"] = files.digest(bundle / artifact)
    path.write_text(json.dumps(manifest, indent=2))
    (bundle / bundles.CHECKSUMS).write_text(bundles.checksums(bundle))


def a_file_of(artifact: Path) -> Path:
    """The largest file of an artifact."""
    return max(files.files_under(artifact), key=lambda p: p.stat().st_size)
