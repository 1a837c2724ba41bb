"""Cells that are forked from a process which has imported what they need."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from torch import nn

from lvexport import forked
from lvexport.converters.contract import Captured, TensorSpec
from lvexport.converters.registry import CONVERTERS
from lvexport.errors import CellError
from lvexport.jobs import ConvertJob, Limits
from lvexport.processes import Workshop, environment, interruptible

pytestmark = pytest.mark.skipif(not forked.HERE, reason="libraries bear to be forked on Linux alone")
MODULES = {
    "with_thread": "import threading, time; threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
    "takes_long": "import time; time.sleep(60)",
    "tells": "import os; open(os.environ['TOLD'], 'a').write(f'{os.getpid()}\\n')",
    "dies": "import os; os.kill(os.getpid(), 9)",
}


@pytest.fixture
def job(tmp_path: Path) -> ConvertJob:
    path = tmp_path / "linear.pt2"
    torch.export.save(torch.export.export(nn.Linear(4, 2).eval(), (torch.rand(1, 4),)), path)
    specs = (TensorSpec("x", (1, 4), "float32"),), (TensorSpec("y", (1, 2), "float32"),)
    return ConvertJob("onnx", "fp32", {}, Captured(path, *specs), tmp_path / "linear.onnx")


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Workshop]:
    for name, code in MODULES.items():
        (tmp_path / f"{name}.py").write_text(code)
    limits = Limits(environment={"PYTHONPATH": str(tmp_path), "TOLD": str(tmp_path / "told")})
    found = Workshop(tmp_path / "shop", limits)
    with interruptible(found):
        yield found
    assert not server_and_branches(), "something outlives the run"


def server_and_branches() -> list[psutil.Process]:
    return [p for p in psutil.Process().children(recursive=True) if "lvexport.forkserver" in p.cmdline()]


def convert(shop: Workshop, job: ConvertJob, *modules: str) -> None:
    """Convert in a process that is asked to import these modules besides."""
    shop.prepare("onnx", modules)
    shop.do(job)


def test_what_cells_need_is_imported_once(shop: Workshop, job: ConvertJob, tmp_path: Path) -> None:
    for _ in range(2):
        convert(shop, job, "tells")
        assert job.out.exists()
        job.out.unlink()
    shop.do(job)
    assert job.out.exists()
    assert len((tmp_path / "told").read_text().splitlines()) == 1
    assert [p.name for p in sorted(shop.folder.iterdir())] == ["cell-000", "cell-001", "cell-002"]


def test_a_process_with_threads_is_not_copied(shop: Workshop, job: ConvertJob, tmp_path: Path) -> None:
    """Each cell is a new process then, which imports the modules itself."""
    for _ in range(2):
        convert(shop, job, "with_thread", "tells")
    assert job.out.exists()
    assert len(set((tmp_path / "told").read_text().splitlines())) == 3  # of the branch and both cells


def test_a_cell_that_crashes_says_how(shop: Workshop, job: ConvertJob) -> None:
    shop.prepare("onnx", ("json",))
    waiting = shop.ahead["onnx"].process
    deadline = time.monotonic() + 60
    while waiting.poll() is None and waiting.pid is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert waiting.pid is not None
    os.kill(waiting.pid, signal.SIGSEGV)
    with pytest.raises(CellError, match=r"died \(signal SIGSEGV\)"):
        shop.do(job)
    shop.do(job)  # the next one is not touched by it


@pytest.mark.parametrize("module", ["dies", "takes_long"])
def test_a_branch_that_is_lost_takes_its_cells_with_it_and_no_others(
    module: str, shop: Workshop, job: ConvertJob
) -> None:
    shop.prepare("onnx", (module,))
    if module == "takes_long":
        threading.Timer(1, shop.stop.set).start()
    with pytest.raises(CellError, match="was stopped" if module == "takes_long" else "died"):
        shop.do(job)
    shop.stop = type(shop.stop)()
    shop.do(job)
    assert job.out.exists()


def test_without_the_server_processes_are_started_as_elsewhere(shop: Workshop, job: ConvertJob) -> None:
    shop.do(job)
    (server, *branches) = server_and_branches()
    for process in (server, *branches):
        process.kill()
    psutil.wait_procs(branches)
    job.out.unlink()
    shop.do(job)
    assert job.out.exists()


def test_memory_of_forked_cells_is_limited(tmp_path: Path, job: ConvertJob) -> None:
    shop = Workshop(tmp_path / "small", Limits(memory=1 << 20))
    with interruptible(shop), pytest.raises(CellError, match="of memory and was ended"):
        shop.do(job)


@pytest.mark.parametrize("target", CONVERTERS)
def test_converters_start_no_threads_when_imported(target: str) -> None:
    """For what they need would then be imported for each cell anew."""
    code = "import sys; from importlib import import_module; from lvexport.forkserver import is_single_threaded\n"
    code += "for module in sys.argv[1:]: import_module(module)\nsys.exit(not is_single_threaded())"
    line = [sys.executable, "-c", code, "torch", "lvexport.cell", *CONVERTERS[target].modules]
    given = environment(Limits(threads=4)) | forked.UNTHREADED
    subprocess.run(line, env=given, capture_output=True, check=True)
