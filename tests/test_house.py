"""The rules of the house: who may import whom, and what importing costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Room → beginnings of the modules of ours that it may import (CONTRIBUTING.md).
ALLOWED = {
    "models": ("lvexport.models",),
    "training": ("lvexport.models", "lvexport.training"),
    "converters": ("lvexport.converters",),
    "validation": ("lvexport.converters.contract", "lvexport.converters.recipes", "lvexport.validation"),
}
HEAVY = {
    "torch",
    "transformers",
    "timm",
    "huggingface_hub",
    "coremltools",
    "coreai",
    "coreai_torch",
    "litert_torch",
    "ai_edge_quantizer",
    "executorch",
    "onnx",
    "onnxruntime",
    "onnxsim",
    "tflite_micro",
    "ethosu",
}


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(module: str, allowed: tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in allowed)


@pytest.mark.parametrize("room", ALLOWED)
def test_rooms_import_what_they_may(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        ours = [m for m in imported(path) if m.split(".")[0] == "lvexport"]
        wrong = [m for m in ours if not within(m, ALLOWED[room])]
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_converters_do_not_know_each_other() -> None:
    targets = {
        "coreml",
        "tflite",
        "executorch",
        "onnx",
        "coreai",
        "executorch_coreml",
        "tflm",
        "ethos_u",
        "executorch_ethos_u",
    }
    for name in targets:
        for room in ("converters", "validation/runtimes"):
            path = ROOT / room / f"{name}.py"
            others = {f"lvexport.{room.replace('/', '.')}.{other}" for other in targets - {name}}
            assert not [m for m in imported(path) if within(m, tuple(others))]


def test_registries_load_no_library() -> None:
    script = (
        "import sys, lvexport.converters.registry, lvexport.validation.runtimes.registry, lvexport.models.registry\n"
        f"print(*set(sys.modules) & {HEAVY!r})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("target", ["tflite", "onnx"])
def test_running_an_artifact_does_not_load_its_converter(target: str, demo_bundle: Path) -> None:
    artifact = next(demo_bundle.glob(f"*-fp32.{target}.*"))
    script = (
        "import sys; from pathlib import Path\n"
        "from lvexport.validation.runtimes.registry import RUNTIMES\n"
        f"RUNTIMES[{target!r}].load(Path({str(artifact)!r}), 1)\n"
        "print(*{'torch', 'litert_torch', 'coremltools', 'onnxsim'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_no_module_is_a_drawer() -> None:
    names = {path.stem for room in (*ALLOWED, "export") for path in (ROOT / room).rglob("*.py")}
    assert not names & {"utils", "util", "helpers", "common", "misc"}
