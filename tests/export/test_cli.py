"""The command line: what it prints where, its exit codes, and how it answers what cannot be done."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lvexport.converters.recipes import RECIPES
from lvexport.converters.registry import CONVERTERS
from lvexport.converters.rewrites.registry import REWRITES
from lvexport.models.registry import ENTRIES
from tests.conftest import Run

ONNX = ("--to", "onnx")
# What was typed, the exit code, and words of the answer.
REFUSED = [
    (("mobilevitt", *ONNX), 2, "Did you mean mobilevit?"),
    (("lst",), 2, "Did you mean list?"),
    (("mobilevit", "--to", "corml"), 2, "Did you mean coreml?"),
    (("mobilevit", "--to", ","), 2, "No target was named"),
    (("mobilevit",), 2, "No target was named"),
    (("mobilevit", *ONNX, "--quantize", "fp61"), 2, "Did you mean fp16?"),
    (("mobilevit", *ONNX, "--wieghts", "x"), 2, "--weights"),
    (("mobilevit", *ONNX, "--weights", "no/such.safetensors"), 2, "There is no weights file"),
    (("mobilevit", *ONNX, "--weights", "."), 2, "is a folder"),
    (("mobilevit", *ONNX, "--weights", __file__), 2, "is not a checkpoint"),
    (("mobilevit_s", *ONNX), 2, "--weights random"),
    (("mobilevit", *ONNX, "--imgsz", "100"), 2, "multiple of 32"),
    (("mobilevit", *ONNX, "--imgsz", "0"), 2, "multiple of 32"),
    (("mobilevit", *ONNX, "--imgsz", "many"), 2, "--imgsz"),
    (("mobilevit", *ONNX, "--num-classes", "7"), 2, "knows 10 classes"),
    (("mobilevit", *ONNX, "--num-classes", "-1", "--weights", "random"), 2, "at least one class"),
    (("mobilevit", *ONNX, "--samples", "0"), 2, "--samples has to be more than 0"),
    (("mobilevit", *ONNX, "--io", "image"), 2, "--io is an option of coreml"),
    (("mobilevit", "--to", "coreml", "--io", "picture"), 2, "image, tensor"),
    (("mobilevit", "--to", "coreml", "--min-ios", "12"), 2, "15, 16, 17, 18"),
    (("mobilevit", *ONNX, "--output", f"{__file__}/dist"), 2, "cannot be written"),
    (("mobilevit", *ONNX, "--output", "/proc/dist"), 2, "cannot be written"),
    (("no/such/script.py:build", *ONNX), 2, "There is no script"),
    (("no_such_module:build", *ONNX), 2, "There is no module"),
    (("no_such.pt2", *ONNX), 2, "There is no program"),
    (("hf:./nowhere", *ONNX), 2, "There is no config.json"),
    (("hf:us/net", *ONNX), 2, "HF_HUB_OFFLINE"),
    (("mobilevit", *ONNX, "--mean", "0.5"), 2, "--mean takes three numbers"),
    (("mobilevit", *ONNX, "--interpolation", "nearest"), 2, "bilinear or bicubic"),
    (("mobilevit", *ONNX, "--labels", "no_such.txt"), 2, "cannot be read"),
    (("verify", ".", "--std", "1,1,1"), 2, "--against MODEL"),
    (("verify", "no/such/bundle"), 2, "There is nothing at"),
    (("verify", "."), 2, "is not a bundle"),
    (("verify", __file__), 2, "golden vectors"),
    (("bench",), 2, "Nothing to time was named"),
    (("bench", "no/such/bundle"), 2, "There is nothing at"),
    (("info", "no_such_model"), 2, "There is no model"),
    (("info", "no_such.onnx"), 2, "There is no artifact"),
    (("list", "modles"), 2, "models"),
]


@pytest.mark.parametrize(
    ("typed", "code", "words"), REFUSED, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_what_cannot_be_done_is_answered_in_one_paragraph(
    typed: tuple[str, ...], code: int, words: str, lvexport: Run, tmp_path: Path
) -> None:
    done = lvexport(*typed, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    complaint = [line for line in done.stderr.splitlines() if "DEMO WEIGHTS" not in line and "is a family" not in line]
    assert len(complaint) == 1, done.stderr
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("classes", "noted"), [("5", True), ("1000", False)])
def test_another_number_of_classes_than_the_published_is_noted(
    classes: str, noted: bool, lvexport: Run, tmp_path: Path
) -> None:
    done = lvexport("mobilevit", "--weights", "random", "--num-classes", classes, *ONNX, "--output", "/proc/dist")
    assert ("mobilevit_xxs with 5 classes, as --num-classes says; published: 1,000." in done.stderr) is noted


def modules_after(*arguments: str) -> tuple[set[str], float]:
    """Which modules a command line loads, and its seconds of CPU beyond those of an empty program."""
    script = (
        "import sys, time; start = time.process_time()\n"
        "from lvexport.__main__ import run\n"
        f"run({list(arguments)!r})\n"
        "print('MODULES', *sys.modules); print('CPU', time.process_time() - start)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    lines = dict(line.split(" ", 1) for line in done.stdout.splitlines() if line.startswith(("MODULES ", "CPU ")))
    return set(lines["MODULES"].split()), float(lines["CPU"])


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("export", "--help"),
        ("list",),
        ("list", "targets"),
        ("mobilevitt", *ONNX),
        ("mobilevit", "--to", "x"),
        ("hf:./nowhere", *ONNX),
        ("timm:a b", *ONNX),
    ],
    ids=" ".join,
)
def test_light_commands_do_not_load_torch(arguments: tuple[str, ...]) -> None:
    loaded, _ = modules_after(*arguments)
    assert not loaded & {
        "torch",
        "transformers",
        "timm",
        "coremltools",
        "litert_torch",
        "executorch",
        "onnx",
        "onnxruntime",
    }
    if arguments == ("--help",):
        assert not loaded & {"numpy", "pydantic", "PIL"}


def test_help_shows_every_command_and_the_exit_codes(lvexport: Run) -> None:
    shown = lvexport("--help").stdout
    commands = ("export", "list", "info", "verify", "bench", "doctor", "--install-completion")
    for word in (*commands, "For example", "Exit codes"):
        assert word in shown


@pytest.mark.parametrize("command", ["export", "list", "info", "verify", "bench", "doctor"])
def test_help_of_a_command_has_examples_that_name_it(command: str, lvexport: Run) -> None:
    shown = lvexport(command, "--help").stdout
    assert f"lvexport {command}" in shown.split("For example:")[1]


def test_list_as_json(lvexport: Run) -> None:
    assert [row["name"] for row in json.loads(lvexport("list", "--json").stdout)] == list(ENTRIES)
    targets = json.loads(lvexport("list", "targets", "--json").stdout)
    assert [row["name"] for row in targets] == list(CONVERTERS)
    rows = json.loads(lvexport("list", "recipes", "--json").stdout)
    assert [row["name"] for row in rows] == list(RECIPES)
    for row in rows:
        assert {c.name for c in CONVERTERS.values() if row[c.name] != "–"} == {
            c.name for c in CONVERTERS.values() if row["name"] in c.recipes
        }
    assert [row["name"] for row in json.loads(lvexport("list", "rewrites", "--json").stdout)] == list(REWRITES)


def test_doctor_sees_what_is_installed(lvexport: Run) -> None:
    found = json.loads(lvexport("doctor", "--json").stdout)
    assert {t["target"] for t in found["targets"] if t["builds"]} == set(CONVERTERS)
    assert {t["target"] for t in found["targets"] if not t["runs"]} == {"ethos-u", "executorch:ethos-u"}
    assert not any(t["remedy"] for t in found["targets"])


def test_info_of_a_model(lvexport: Run) -> None:
    found = json.loads(lvexport("info", "mobilevit_xxs", "--weights", "random", "--json").stdout)
    assert found["parameters"] == 1_272_024
    # The paper's table 1 gives 0.4 G FLOPs for MobileViT-XXS, as its authors count multiply-accumulates.
    assert 0.25e9 < found["macs"] < 0.45e9
    assert found["traffic_bytes"] > 4 * found["parameters"]


def test_version(lvexport: Run) -> None:
    assert lvexport("--version").stdout.strip().count(".") == 2


def test_completion_can_be_made(lvexport: Run, tmp_path: Path) -> None:
    target = tmp_path / "completion.zsh"
    done = lvexport(
        "--install-completion", "--shell", "zsh", "--output", target, env={"HOME": str(tmp_path), "PATH": ""}
    )
    assert done.returncode == 0, done.stderr
    assert "mobilevit" in target.read_text() or "export" in target.read_text()


def test_a_model_that_raises_is_one_paragraph(lvexport: Run, tmp_path: Path) -> None:
    script = tmp_path / "broken.py"
    script.write_text(
        "def model():\n    try:\n        raise KeyError('what it came from')\n"
        "    except KeyError as error:\n        raise RuntimeError('\\x1b[96mno such luck\\x1b[0m') from error\n"
    )
    done = lvexport(f"{script}:model", *ONNX, "--output", tmp_path / "dist")
    assert done.returncode == 3
    assert "RuntimeError: no such luck, which came of KeyError: 'what it came from'" in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "dist").iterdir())


def test_a_full_disk_is_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    import errno

    from safetensors import SafetensorError

    from lvexport.__main__ import explain

    for error in (
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("I/O error: No space left on device"),
    ):
        assert explain(error) == 3
        assert "The disk is full" in capsys.readouterr().err


def test_interrupting_leaves_nothing_running_and_nothing_half_done(tmp_path: Path) -> None:
    import signal

    import psutil

    line = [sys.executable, "-m", "lvexport", "mobilevit", "--to", "tflite", "--output", str(tmp_path / "dist")]
    process = subprocess.Popen(
        line,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts its background jobs with the signal ignored, and the tests may be one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    for text in process.stderr:
        if "converting" in text:
            break
    time.sleep(1)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Stopped" in errors
    assert "Traceback" not in errors
    assert not psutil.wait_procs(children, timeout=10)[1]
    assert not list((tmp_path / "dist").iterdir())
