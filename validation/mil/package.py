"""The folder that an ``.mlpackage`` is: its manifest, and the files that the manifest names.

Layout (``modelpackage/src/ModelPackage.cpp`` of coremltools): ``Manifest.json`` lists items by identifier, each
with a path below ``Data/``; ``rootModelIdentifier`` picks the item that holds the model specification. A package
comes from elsewhere, so no path in it is followed out of it.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lvexport.validation.mil.errors import DamagedPackage, UnsupportedModel

LARGEST_MANIFEST = 2**20  # bytes; one written by coremltools has 617
MODEL_PATH = "@model_path"  # stands for the specification's own folder in the name of a weight file


@dataclass(frozen=True)
class Package:
    """Files of one package, all of them inside it.

    Attributes:
        root: the ``.mlpackage`` folder, resolved.
        specification: the model specification file (a serialized protobuf message).
        items: every file or folder that the manifest lists.
    """

    root: Path
    specification: Path
    items: tuple[Path, ...]

    def size(self) -> int:
        """Bytes of the regular files in it."""
        files = (path.lstat() for path in self.root.rglob("*"))
        return sum(found.st_size for found in files if stat.S_ISREG(found.st_mode))

    def weight_file(self, name: str) -> Path:
        """The file that the program calls ``name``, as in ``@model_path/weights/weight.bin``.

        Raises:
            DamagedPackage: the name leads out of the package, to no regular file, or to one not in the manifest.
        """
        prefix, _, rest = name.partition("/")
        if prefix != MODEL_PATH:
            raise DamagedPackage(f"The program names the weight file {name!r}; such names begin with {MODEL_PATH}/.")
        path = _inside(self.root, self.specification.parent, rest)
        if not any(path == item or item in path.parents for item in self.items):
            raise DamagedPackage(f"The program reads the weight file {name!r}, which Manifest.json does not list.")
        return _regular(path, f"the weight file {name!r}")


def open_package(path: str | Path) -> Package:
    """Reads the manifest of the package at ``path`` and checks that what it lists is there.

    Raises:
        DamagedPackage: no package is there, or its manifest is damaged.
        UnsupportedModel: something else of Core ML's is there (``.mlmodel``, ``.mlmodelc``).
    """
    root = _resolved(Path(path))
    if root.suffix in (".mlmodel", ".mlmodelc"):
        raise UnsupportedModel(
            f"{path} is a {root.suffix} file. Only .mlpackage folders are read: an .mlmodel holds an older "
            "kind of model, and an .mlmodelc what Xcode compiled from one."
        )
    if not root.is_dir():
        raise DamagedPackage(f"There is no .mlpackage folder at {path}.")
    manifest = _manifest(root)
    data = root / "Data"
    entries = {key: _inside(root, data, _entry_path(entry)) for key, entry in manifest["itemInfoEntries"].items()}
    identifier = manifest["rootModelIdentifier"]
    if identifier not in entries:
        raise DamagedPackage(f"Manifest.json of {path} names the root model {identifier!r}, which it does not list.")
    specification = _regular(entries[identifier], "the model specification")
    return Package(root, specification, tuple(entries.values()))


def _manifest(root: Path) -> Mapping[str, Any]:
    path = _regular(_inside(root, root, "Manifest.json"), "Manifest.json")
    if path.stat().st_size > LARGEST_MANIFEST:
        raise DamagedPackage(f"{path} has {path.stat().st_size} bytes, too many for a manifest.")
    try:
        # Always UTF-8: of bytes, json guesses an encoding, and looks for its codec in other files.
        manifest = json.loads(path.read_bytes().decode())
    except (ValueError, RecursionError) as error:
        raise DamagedPackage(f"{path} is not a JSON document: {error}.") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("itemInfoEntries"), dict):
        raise DamagedPackage(f"{path} has no table of items (itemInfoEntries).")
    if not isinstance(manifest.get("rootModelIdentifier"), str):
        raise DamagedPackage(f"{path} does not say which item is the model (rootModelIdentifier).")
    return manifest


def _entry_path(entry: Any) -> str:
    path = entry.get("path") if isinstance(entry, dict) else None
    if not isinstance(path, str):
        raise DamagedPackage("Manifest.json has an item without a path.")
    return path


def _inside(root: Path, folder: Path, name: str) -> Path:
    """``folder``/``name`` with every link followed; refused unless it is still below ``root``."""
    relative = PurePosixPath(name)
    if not name or "\0" in name or "\\" in name or relative.is_absolute() or ".." in relative.parts:
        raise DamagedPackage(f"The path {name!r} is not allowed in a package: it must be relative and stay inside.")
    path = _resolved(folder / relative)
    if root not in path.parents:
        raise DamagedPackage(f"The path {name!r} leads out of the package {root}.")
    return path


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise DamagedPackage(f"The path {path} cannot be followed: {error}.") from error


def _regular(path: Path, what: str) -> Path:
    # Checked before opening: to open a named pipe would wait forever.
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise DamagedPackage(f"The package lacks {what}: {error.strerror} ({path}).") from error
    if not stat.S_ISREG(mode):
        raise DamagedPackage(f"In the package {what} is not a regular file ({path}).")
    return path
