"""The train command: what it prints, what it refuses, and how it is stopped."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lvexport.errors import Interrupted
from lvexport.training_command import stoppable
from tests.conftest import Run

FASHION = ("--data", "fashion-mnist")
# What was typed, and words of the answer; the exit code is 2.
REFUSED = [
    (("mobilevitt", *FASHION), "Did you mean mobilevit?"),
    (("mobilevit",), "--data"),
    (("mobilevit", "--data", "no/such/folder"), "There are no training data"),
    (("mobilevit", "--data", "."), "has no folder"),
    (("mobilevit", *FASHION, "--sizes", "64,100"), "multiple of 32"),
    (("mobilevit", *FASHION, "--sizes", "small"), "--sizes takes pixels"),
    (("mobilevit", *FASHION, "--imgsz", "50"), "multiple of 32"),
    (("mobilevit", *FASHION, "--epochs", "0"), "--epochs has to be more than 0"),
    (("mobilevit", *FASHION, "--warmup", "1"), "--warmup is a share"),
    (("mobilevit", *FASHION, "--freeze", "2"), "Give --start"),
    (("mobilevit", *FASHION, "--start", "random"), "--start takes demo or a checkpoint's PATH"),
    (("mobilevit", *FASHION, "--start", "no/such.pt"), "no/such.pt"),
    (("mobilevit", *FASHION, "--ema-decay", "1.5"), "--ema-decay is a share"),
]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes of flat pictures, dark and bright."""
    random = np.random.default_rng(0)
    for part, count in (("train", 24), ("val", 8)):
        for name, low in (("dark", 0), ("bright", 128)):
            folder = tmp_path / "pictures" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(random.integers(low, low + 128, (32, 32, 3), np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "pictures"


@pytest.mark.parametrize(("typed", "words"), REFUSED, ids=[" ".join(typed) for typed, _ in REFUSED])
def test_what_cannot_be_trained_is_refused(typed: tuple[str, ...], words: str, lvexport: Run, tmp_path: Path) -> None:
    done = lvexport("train", *typed, "--output", tmp_path / "out")
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_training_ends_with_a_model_that_the_main_job_takes(pictures: Path, tmp_path: Path, lvexport: Run) -> None:
    typed = ("train", "mobilevit", "--data", pictures, "--imgsz", "32", "--batch", "8", "--epochs", "1")
    done = lvexport(*typed, "--output", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    card = json.loads(done.stdout)
    assert card["model"] == "mobilevit_xxs"
    assert card["test_images"] == 16
    assert "s left" not in done.stderr
    again = lvexport(*typed, "--output", tmp_path / "out")
    assert "finished already" in again.stdout
    weights = tmp_path / "out" / "mobilevit_xxs.safetensors"
    main_job = ("mobilevit_xxs", "--weights", weights, "--to", "onnx", "--samples", "20")
    made = lvexport(*main_job, "--output", tmp_path, "--json")
    assert made.returncode == 0, made.stderr
    manifest = json.loads(made.stdout)
    assert manifest["input"]["shape"] == [1, 3, 32, 32]
    assert manifest["labels"] == ["bright", "dark"]


def test_ctrl_c_says_how_to_go_on(pictures: Path, tmp_path: Path) -> None:
    typed = ["train", "mobilevit", "--data", str(pictures), "--imgsz", "32", "--batch", "4", "--epochs", "1000"]
    line = [sys.executable, "-m", "lvexport", *typed, "--output", str(tmp_path / "out"), "--save-every", "0.1"]
    process = subprocess.Popen(
        line,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "out" / "training.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Type the same command again to go on" in complaint
    assert "Traceback" not in complaint
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {"training.pt", "training.part"}


def test_ctrl_c_in_the_middle_of_a_record_says_so_too() -> None:
    class InterruptedFile(io.BytesIO):
        def write(self, data: Any) -> int:
            if self.tell() > 1000:
                raise KeyboardInterrupt
            return super().write(data)

    with pytest.raises(Interrupted, match="Type the same command again"), stoppable():
        torch.save({str(i): torch.zeros(1000) for i in range(9)}, InterruptedFile())
    with pytest.raises(RuntimeError, match="something else"), stoppable():
        raise RuntimeError("something else")
