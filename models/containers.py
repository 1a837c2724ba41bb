"""What can be told of a checkpoint file from its first bytes, without loading torch."""

from __future__ import annotations

import json
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lvexport.models.errors import WeightsError
from lvexport.models.preprocessing import Preprocessing

PICKLE_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # protocol 2 to 5


def check_container(path: Path) -> None:
    """Raise WeightsError unless the file exists and begins like a checkpoint. Reads a few bytes."""
    if not path.exists():
        raise WeightsError(
            f"There is no weights file at {path}. Check the path, or type --weights demo for the checkpoint that "
            "ships with the project, or --weights random for seeded random numbers."
        )
    if path.is_dir():
        raise WeightsError(f"{path} is a folder, not a weights file. Name a .safetensors, .pt or .pth file inside it.")
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}. Check its permissions.") from error
    if not (is_safetensors(path, head) or zipfile.is_zipfile(path) or head[:2] in PICKLE_STARTS):
        raise WeightsError(
            f"{path} is not a checkpoint: it is neither a .safetensors file nor a PyTorch .pt/.pth file, or it was cut "
            "short. Download or save it again."
        )


def is_safetensors(path: Path, head: bytes) -> bool:
    """Whether the file begins with a safetensors header that lies within it."""
    if len(head) < 9 or head[8:9] != b"{":
        return False
    (length,) = struct.unpack("<Q", head[:8])
    return int(length) + 8 <= path.stat().st_size


def metadata(path: Path) -> dict[str, str]:
    """What a .safetensors file says of itself beside its tensors; nothing for files of other kinds."""
    with path.open("rb") as file:
        head = file.read(9)
        if not is_safetensors(path, head):
            return {}
        file.seek(8)
        content = file.read(struct.unpack("<Q", head[:8])[0])
    try:
        found: dict[str, str] = json.loads(content).get("__metadata__", {})
    except ValueError as error:
        raise WeightsError(f"{path} is damaged: its header is not readable. Download or save it again.") from error
    return found


@dataclass(frozen=True)
class Carried:
    """What a checkpoint of lvexport's own training says of itself. None, and no classes, where it says nothing."""

    model: str | None = None
    classes: tuple[str, ...] = ()
    imgsz: int | None = None
    preprocessing: Preprocessing | None = None


def carried(path: Path) -> Carried:
    """Read the metadata ``model``, ``classes``, ``imgsz`` and ``preprocessing``, the last three as JSON.

    Others use some of these names too: what is not of the form that lvexport writes is left aside.
    """
    found = metadata(path)
    classes, imgsz, preprocessing = (_parsed(found.get(name)) for name in ("classes", "imgsz", "preprocessing"))
    return Carried(
        found.get("model"),
        tuple(map(str, classes)) if isinstance(classes, list) else (),
        imgsz if isinstance(imgsz, int) else None,
        _preprocessing(preprocessing) if isinstance(preprocessing, dict) else None,
    )


def _parsed(text: str | None) -> object:
    try:
        return json.loads(text or "null")
    except ValueError:
        return None


def _preprocessing(values: dict[str, object]) -> Preprocessing | None:
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    try:
        return Preprocessing(**fields)
    except TypeError:
        return None
