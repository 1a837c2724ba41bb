"""The bytes of ExecuTorch's Core ML delegate: its own reader reads what we write, and we read nothing that is amiss."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lvexport import files
from lvexport.converters.executorch_coreml import pack
from lvexport.validation.contract import ArtifactError
from lvexport.validation.delegate import unpack


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "lowered_module"
    (made / "model.mlpackage" / "Data").mkdir(parents=True)
    (made / "model.mlpackage" / "Data" / "weight.bin").write_bytes(bytes(range(256)) * 9)
    (made / "model.mlpackage" / "Manifest.json").write_text('{"nodes": []}')
    (made / "metadata.json").write_text("{}")
    (made / "empty").write_bytes(b"")
    return made


def test_what_is_packed_comes_out_again(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    unpack(pack(folder), out)
    assert files.digest(out) == files.digest(folder)


def test_executorch_reads_what_is_packed_and_packs_what_is_read(folder: Path, tmp_path: Path) -> None:
    from executorch.backends.apple.coreml import executorchcoreml

    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    for out in (theirs, ours):
        out.mkdir()
    assert executorchcoreml.unflatten_directory_contents(pack(folder), str(theirs))
    assert files.digest(theirs / folder.name) == files.digest(folder)
    (folder / "empty").unlink()  # over an empty file, its writer ends the process
    unpack(executorchcoreml.flatten_directory_contents(str(folder)), ours)
    assert files.digest(ours) == files.digest(folder)


def blob(*nodes: tuple[int, dict[str, int], int, int]) -> bytes:
    """16 bytes of content and a table of (kind, children, offset, size)."""
    table = [{"kind": k, "children": c, "dataRegion": {"offset": o, "size": s}, "name": ""} for k, c, o, s in nodes]
    return bytes(16) + json.dumps({"nodes": table}).encode()[::-1]


FILE = (0, {}, 0, 4)
HOSTILE = {
    "empty": (b"", "cannot be read"),
    "no table": (b"rubbish", "cannot be read"),
    "no nodes": (blob(), "names none"),
    "deep": (b"[" * 2**20, "cannot be read"),
    "outside": (blob((0, {}, 8, 10**9), (1, {"a": 0}, 0, 0)), "outside the program"),
    "before": (blob((0, {}, -8, 4), (1, {"a": 0}, 0, 0)), "outside the program"),
    "parent": (blob(FILE, (1, {"..": 0}, 0, 0)), "is called '..'"),
    "path": (blob(FILE, (1, {"../../a": 0}, 0, 0)), "is called"),
    "root": (blob(FILE, (1, {"/tmp/a": 0}, 0, 0)), "is called"),
    "cycle": (blob((1, {"a": 0}, 0, 0)), "named twice or missing"),
    "twice": (blob(FILE, (1, {"a": 0, "b": 0}, 0, 0)), "named twice or missing"),
    "missing": (blob(FILE, (1, {"a": 7}, 0, 0)), "named twice or missing"),
    "kind": (blob((2, {}, 0, 0)), "neither file nor folder"),
}


@pytest.mark.parametrize(("content", "words"), HOSTILE.values(), ids=HOSTILE)
def test_what_is_amiss_is_refused(content: bytes, words: str, tmp_path: Path) -> None:
    out = tmp_path / "inner" / "out"
    out.mkdir(parents=True)
    with pytest.raises(ArtifactError, match=words):
        unpack(content, out)
    assert {p.name for p in (tmp_path / "inner").iterdir()} == {"out"}
    assert [p.name for p in tmp_path.iterdir()] == ["inner"]
