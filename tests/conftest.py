"""What several tests share: one real bundle, made once, and the command line as a user starts it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from lvexport.bundle import Bundle

# Small networks gain nothing from threads, and threads that wait for one another lose much on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What the tests see must not depend on a network: tests of the hub bring one of their own.
os.environ["HF_HUB_OFFLINE"] = "1"

ALL = "coreml,tflite,executorch,onnx"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def lvexport() -> Run:
    """Run the command line in a process of its own."""

    def run(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "lvexport", *map(str, arguments)]
        return subprocess.run(line, capture_output=True, text=True, timeout=900, **options)  # type: ignore[call-overload]

    return run


@pytest.fixture(scope="session")
def demo_run(lvexport: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The main job on the demo weights, all targets and recipes, as a user types it: its bundle and what it printed.

    Made once for all processes that run tests.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    output, said = shared / "demo", shared / "demo.json"
    typed = ("mobilevit", "--weights", "demo", "--to", ALL, "--quantize", "fp32,fp16", "--output", output)
    with FileLock(shared / "demo.lock"):
        if not said.exists():
            done = lvexport(*typed)
            said.write_text(json.dumps([done.returncode, done.stdout, done.stderr]))
    return output / "mobilevit_xxs-demo-64", subprocess.CompletedProcess(typed, *json.loads(said.read_text()))


@pytest.fixture(scope="session")
def demo_bundle(demo_run: tuple[Path, subprocess.CompletedProcess[str]]) -> Path:
    """A verified bundle of the demo weights. Not to be changed: see :func:`bundle_copy`."""
    path, done = demo_run
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture
def bundle_copy(demo_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the demo's bundle that a test may damage."""
    copy = tmp_path / demo_bundle.name
    shutil.copytree(demo_bundle, copy)
    return copy


@pytest.fixture(scope="session")
def bundle(demo_bundle: Path) -> Bundle:
    from lvexport.bundle import read

    return read(demo_bundle)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's cache out of it."""
    if "XDG_CACHE_HOME" not in os.environ:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
