"""Prints the JSON schema of manifest.json: ``make schema``."""

from __future__ import annotations

import json

from lvexport.manifest import Manifest


def schema() -> str:
    """The schema as it is published in docs/manifest.schema.json."""
    return json.dumps(Manifest.model_json_schema(mode="serialization"), indent=2) + "\n"


if __name__ == "__main__":
    print(schema(), end="")
