"""What targets that write Core ML packages have in common."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

from lvexport.converters.contract import Choice

# Recipe → what coremltools calls the precision of the arithmetic.
PRECISIONS = {"fp32": "FLOAT32", "fp16": "FLOAT16"}
MIN_IOS = Choice(("17", "15", "16", "18"), "oldest iOS that has to load the package")


def make_reproducible(package: Path, spec: Any) -> None:
    """Rewrite the package so that the same program always gives the same bytes.

    coremltools writes protobuf maps in any order, notes the day, and draws the manifest's identifiers at random; here
    the identifiers follow from the content.
    """
    spec.description.metadata.userDefined.pop("com.github.apple.coremltools.conversion_date", None)
    manifest_path = package / "Manifest.json"
    manifest = json.loads(manifest_path.read_text())
    root = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
    content = spec.SerializeToString(deterministic=True)
    (package / "Data" / root).write_bytes(content)
    names = {
        old: str(uuid.uuid5(uuid.NAMESPACE_OID, entry["path"] + content[:4096].hex())).upper()
        for old, entry in manifest["itemInfoEntries"].items()
    }
    manifest["itemInfoEntries"] = {names[old]: entry for old, entry in sorted(manifest["itemInfoEntries"].items())}
    manifest["itemInfoEntries"] = dict(sorted(manifest["itemInfoEntries"].items()))
    manifest["rootModelIdentifier"] = names[manifest["rootModelIdentifier"]]
    manifest_path.write_text(json.dumps(manifest, indent=4) + "\n")
