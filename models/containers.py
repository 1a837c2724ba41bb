"""What can be told of a checkpoint file from its first bytes, without loading torch."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path

from lvexport.models.errors import WeightsError

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


def class_names(path: Path) -> tuple[str, ...]:
    """Class labels that a .safetensors file carries in its metadata under ``classes``, or none."""
    with path.open("rb") as file:
        head = file.read(9)
        if not is_safetensors(path, head):
            return ()
        file.seek(8)
        header = json.loads(file.read(struct.unpack("<Q", head[:8])[0]))
    return tuple(json.loads(header.get("__metadata__", {}).get("classes", "[]")))
