"""lvexport: light vision transformers, and PyTorch models of your own, as artifacts for phones and embedded targets.

    import lvexport

    model = lvexport.build("mobilevit_xxs")
    bundle = lvexport.export(model, to=["coreml", "tflite"], quantize=["fp16"], output="dist")
    bundle.results[0].verdict.sqnr_db

Importing this package loads neither torch nor a converter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lvexport.api import evaluate, export, verify
    from lvexport.bundle import Bundle
    from lvexport.errors import LvexportError, UsageError
    from lvexport.models.build import build

    __version__: str

__all__ = ["Bundle", "LvexportError", "UsageError", "build", "evaluate", "export", "verify"]
_HOMES = {
    "Bundle": "lvexport.bundle",
    "LvexportError": "lvexport.errors",
    "UsageError": "lvexport.errors",
    "build": "lvexport.models.build",
    "evaluate": "lvexport.api",
    "export": "lvexport.api",
    "verify": "lvexport.api",
}


def __getattr__(name: str) -> Any:
    """Load a part of the interface when it is first used."""
    if name == "__version__":
        from importlib.metadata import version

        return version("lvexport")
    if name not in _HOMES:
        raise AttributeError(f"module 'lvexport' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
