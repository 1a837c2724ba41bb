"""Killed without warning at any moment: the bundle is the old one or a new one, whole, and the next run succeeds."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from lvexport import files
from tests.conftest import Run
from tests.networks import SIDE

MODEL = [f"{Path(__file__).parents[1] / 'networks.py'}:wide", "--imgsz", str(SIDE)]
TYPED = [*MODEL, "--to", "onnx", "--quantize", "fp32,fp16", "--samples", "20"]
LONGEST = 40.0  # seconds that a run takes here at the most


def start(output: Path, *more: str) -> subprocess.Popen[bytes]:
    line = [sys.executable, "-m", "lvexport", *TYPED, "--output", str(output), *more]
    return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def check_whole(bundle: Path) -> None:
    """Everything under a final name is whole, and every checksum is that of the file that is there."""
    if not bundle.exists():
        return
    listed = dict(reversed(line.split("  ", 1)) for line in (bundle / "SHA256SUMS").read_text().splitlines())
    there = {p.relative_to(bundle).as_posix(): files.file_digest(p) for p in files.files_under(bundle)}
    there.pop("SHA256SUMS")
    assert there == listed
    for artifact in json.loads((bundle / "manifest.json").read_text())["artifacts"]:
        assert artifact["status"] == "ok"
        assert files.digest(bundle / artifact["path"]) == artifact["sha256"]


def kill_at_random_moments(count: int, output: Path, lvexport: Run) -> None:
    bundle = output / f"networks-wide-{SIDE}"
    begun = time.monotonic()
    assert start(output).wait() == 0
    takes = min(time.monotonic() - begun, LONGEST)
    moments = random.Random(count)
    for _ in range(count):
        process = start(output, "--force")
        cells: list[psutil.Process] = []
        end = time.monotonic() + moments.uniform(0, takes)
        while time.monotonic() < end and process.poll() is None:
            cells = psutil.Process(process.pid).children(recursive=True)
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        check_whole(bundle)
        assert not psutil.wait_procs(cells, timeout=20)[1], "a cell outlives the run that started it"
    done = lvexport(*TYPED, "--output", output)
    assert done.returncode == 0, done.stderr
    check_whole(bundle)
    assert [p.name for p in output.iterdir()] == [bundle.name]


def test_killed_at_three_random_moments(tmp_path: Path, lvexport: Run) -> None:
    kill_at_random_moments(3, tmp_path, lvexport)


@pytest.mark.slow
def test_killed_at_twenty_random_moments(tmp_path: Path, lvexport: Run) -> None:
    kill_at_random_moments(20, tmp_path, lvexport)
