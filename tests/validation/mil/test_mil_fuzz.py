"""The fuzzing of packages: that it sees what it looks for, and a sample of it (``make fuzz`` runs it all)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lvexport.validation import mil
from tools.mil_fuzz.watch import MEBIBYTE, watched

ROOT = Path(__file__).parents[3]


def crash():
    os.kill(os.getpid(), signal.SIGKILL)


def loop():
    while True:
        pass


def grow():
    bytearray(b"x" * (80 * MEBIBYTE))


def read_outside():
    Path(__file__).read_bytes()


def refuse_after_growing():
    grow()
    raise mil.DamagedPackage("too late")


def refuse():
    raise mil.DamagedPackage("cut short")


PLANTED = {
    "ran": (lambda: None, ""),
    "refused": (refuse, "DamagedPackage: cut short"),
    "exception": (lambda: [][0], "IndexError"),
    "crash": (crash, "status"),
    "memory": (refuse_after_growing, "refused: DamagedPackage"),
    "outside": (read_outside, "test_mil_fuzz.py"),
}


@pytest.mark.parametrize("outcome", PLANTED)
def test_every_defect_is_seen(outcome, tmp_path):
    attempt, detail = PLANTED[outcome]
    found = watched(attempt, mil.MilError, tmp_path, 40 * MEBIBYTE)
    assert found.outcome == outcome, found
    assert detail in found.detail
    assert found.sound == (outcome in ("ran", "refused"))


@pytest.mark.parametrize("hang", [loop, lambda: time.sleep(60)], ids=["busy", "asleep"])
def test_a_hang_is_ended(hang, tmp_path):
    found = watched(hang, mil.MilError, tmp_path, 40 * MEBIBYTE, cpu_seconds=1, clock_seconds=5)
    assert found.outcome == "slow"


def test_a_sample_of_damaged_packages():
    typed = [sys.executable, "-m", "tools.mil_fuzz", "--count", "60", "--seed", "3", "--jobs", "2"]
    done = subprocess.run(typed, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "refused" in done.stdout
    assert "ran" in done.stdout
