"""The protobuf classes that coremltools generated from Apple's ``.proto`` files, without importing coremltools.

Executing ``coremltools/__init__`` costs some 15 s and pulls every converter in. The generated modules need
nothing but protobuf and their own siblings, so they are imported through a package of our own name whose search
path is coremltools' ``proto`` folder. protobuf keeps one descriptor, and one class, per message type in a
process, whatever name a module was imported by: coremltools may be imported before or after, and its messages
and these are the same classes.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from lvexport.validation.mil.errors import DamagedPackage, MilError

ALIAS = "lvexport.validation.mil._coremltools_proto"
LARGEST_MESSAGE = 2**31 - 1  # bytes; protobuf itself reads no more (protobuf.dev, "Proto Limits")


def parse_model(path: Path) -> Any:
    """The ``CoreML.Specification.Model`` message in the file at ``path``.

    Raises:
        DamagedPackage: the file is not such a message.
        MilError: coremltools is not installed.
    """
    if path.stat().st_size > LARGEST_MESSAGE:
        raise DamagedPackage(f"{path} has {path.stat().st_size} bytes; a model specification cannot have over 2 GiB.")
    model_type = _generated("Model_pb2").Model
    from google.protobuf.message import DecodeError

    try:
        return model_type.FromString(path.read_bytes())
    except DecodeError as error:
        raise DamagedPackage(
            f"{path} is not a Core ML model specification: protobuf cannot decode it. "
            "The file was cut short or altered after it was written."
        ) from error


def data_type_name(number: int) -> str:
    """MIL's spelling of a ``DataType`` value, e.g. ``FLOAT16`` for 10; ``#99`` for one that it does not have."""
    enum = _generated("MIL_pb2").DataType.DESCRIPTOR
    value = enum.values_by_number.get(number)
    return str(value.name) if value is not None else f"#{number}"


def _generated(name: str) -> ModuleType:
    if ALIAS not in sys.modules:
        package = ModuleType(ALIAS)
        package.__path__ = [str(_folder())]
        sys.modules[ALIAS] = package
    return importlib.import_module(f"{ALIAS}.{name}")


def _folder() -> Path:
    # For a top-level name find_spec only looks; it executes nothing.
    spec = importlib.util.find_spec("coremltools")
    for location in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(location) / "proto"
        if (folder / "Model_pb2.py").is_file():
            return folder
    raise MilError(
        "Reading a Core ML package needs the message definitions that coremltools ships, and coremltools is not "
        "installed here. Install it with: pip install 'lvexport[coreml]'"
    )
