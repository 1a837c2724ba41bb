"""The folder that ExecuTorch's Core ML delegate keeps as one run of bytes.

The contents of all files come first, then a table of files and folders as JSON that is written backwards, so that it is
read from the end; the last node is the folder itself (ExecuTorch,
backends/apple/coreml/runtime/inmemoryfs/inmemory_filesystem.cpp). The bytes are untrusted: every number and name in the
table is checked before anything is written.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lvexport.validation.contract import ArtifactError

_LONGEST_TABLE = 2**20  # bytes; a package has about ten files
_FILE, _FOLDER = 0, 1


def unpack(blob: bytes, folder: Path) -> None:
    """Write the files under ``folder``, which exists. Raises ArtifactError where the bytes are no such folder."""
    nodes = table(blob)
    left = list(range(len(nodes)))

    def write(index: int, path: Path) -> None:
        if index not in left:
            raise damaged("a file or folder of it is named twice or missing")
        left.remove(index)
        node = nodes[index]
        if node["kind"] == _FILE:
            path.write_bytes(content(blob, node["dataRegion"]))
            return
        path.mkdir(exist_ok=True)
        for name, child in node["children"].items():
            write(child, path / checked(name))

    write(len(nodes) - 1, folder)


def table(blob: bytes) -> list[dict[str, Any]]:
    """The nodes of the table behind the contents."""
    text = blob[: -_LONGEST_TABLE - 1 : -1].decode("latin-1")
    try:
        found, _ = json.JSONDecoder().raw_decode(text)
        nodes = [
            {
                "kind": int(node["kind"]),
                "children": {str(name): int(child) for name, child in node["children"].items()},
                "dataRegion": (int(node["dataRegion"]["offset"]), int(node["dataRegion"]["size"])),
            }
            for node in found["nodes"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged("its table of files cannot be read") from error
    if not nodes or {node["kind"] for node in nodes} - {_FILE, _FOLDER}:
        raise damaged("its table of files names none, or something that is neither file nor folder")
    return nodes


def content(blob: bytes, region: tuple[int, int]) -> bytes:
    offset, size = region
    if offset < 0 or size < 0 or offset + size > len(blob):
        raise damaged("a file of it lies outside the program")
    return blob[offset : offset + size]


def checked(name: str) -> str:
    if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise damaged(f"a file of it is called {name!r}")
    return name


def damaged(why: str) -> ArtifactError:
    return ArtifactError(f"The Core ML package in the program is damaged: {why}. Make the program again.")
