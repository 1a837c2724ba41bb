"""How fast and how frugal the Core ML reference interpreter is, beside torch itself: ``make bench-mil``.

Converts one network with random weights, times eager torch and the interpreter's numerics in turn on one core, and
measures loading and memory. Exits with 1 where a figure misses its target.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NETWORK = "mobilevit_s"
THREADS, ROUNDS, RUNS = 1, 7, 5
MOST_RATIO = 2.0  # of the single-precision package to eager torch
MOST_LOAD = 1.0  # seconds for 100 MB
MOST_MEMORY = 3.0  # times the package's size, after loading it; for compressed weights after a prediction too
LAYERS, SIDE = 12, 4096  # of the package with compressed weights


@dataclass(frozen=True)
class Figure:
    """One line of the report; ``target`` is the most that ``value`` may be, None where it is only reported."""

    what: str
    value: float
    unit: str
    spread: str = ""
    target: float | None = None

    @property
    def met(self) -> bool:
        return self.target is None or self.value <= self.target

    def __str__(self) -> str:
        aim = "" if self.target is None else f"(at most {self.target:g}: {'met' if self.met else 'MISSED'})"
        return f"{self.what:<34} {self.value:9.2f} {self.unit:<24} {self.spread:<14} {aim}".rstrip()


def packages(folder: Path) -> dict[str, Path]:
    """Recipe → the network as a package of that precision."""
    import lvexport

    bundle = lvexport.export(
        NETWORK, to=["coreml"], quantize=["fp32", "fp16"], weights="random", samples=1, output=folder
    )
    return {result.recipe: bundle.path / str(result.path) for result in bundle.results}


def palettes(folder: Path) -> Path:
    """A package of linear layers whose weights are four bits each, indices of a table: 96 MiB."""
    import coremltools as ct
    import numpy as np
    from coremltools.converters.mil import mil as pymil
    from coremltools.converters.mil.mil import Builder, types

    chance = np.random.default_rng(0)
    program = pymil.Program()
    with pymil.Function({"x": Builder.placeholder((1, SIDE))}, opset_version=ct.target.iOS18) as function:
        x = function.inputs["x"]
        for _ in range(LAYERS):
            indices = chance.integers(0, 16, (SIDE, SIDE), np.uint8).astype(types.nptype_from_builtin(types.uint4))
            lut = chance.random((1, 1, 16, 1), np.float32) / SIDE
            x = Builder.linear(x=x, weight=Builder.constexpr_lut_to_dense(indices=indices, lut=lut))
        function.set_outputs([x])
        program.add_function("main", function)
    options = {"pass_pipeline": ct.PassPipeline.EMPTY, "skip_model_load": True}
    made = ct.convert(program, source="milinternal", minimum_deployment_target=ct.target.iOS18, **options)
    made.save(str(folder / "palettes.mlpackage"))
    return folder / "palettes.mlpackage"


def contestants(found: dict[str, Path]) -> dict[str, tuple[Callable[[], Any], int]]:
    """Name → one inference, and how many of them make a turn. Eager torch comes first."""
    import torch

    import lvexport
    from lvexport.validation import mil

    torch.set_num_threads(THREADS)
    network = lvexport.build(NETWORK, weights="random")
    models = {
        "fp32": mil.load(found["fp32"]),
        "fp16 rounded": mil.load(found["fp16"]),
        "fp16 pessimistic": mil.load(found["fp16"], numerics="pessimistic"),
    }
    (feature,) = models["fp32"].inputs
    picture = torch.rand(tuple(map(int, filter(None, feature.shape))), generator=torch.Generator().manual_seed(0))

    def eager() -> None:
        with torch.inference_mode():
            network(picture)

    taken: dict[str, tuple[Callable[[], Any], int]] = {"eager torch": (eager, RUNS)}
    for name, model in models.items():
        data = {feature.name: picture.numpy()}
        taken[name] = (lambda model=model, data=data: model.predict(data), 1 if "pessimistic" in name else RUNS)
    return taken


def speed(found: dict[str, Path]) -> Iterator[Figure]:
    """Milliseconds of an inference, and the ratio to eager torch of the same turn."""
    taken = contestants(found)
    times: dict[str, list[float]] = {name: [] for name in taken}
    for run, _ in taken.values():
        run()
    for _ in range(ROUNDS):
        for name, (run, count) in taken.items():
            times[name].append(statistics.median(timed(run) for _ in range(count)))
    first, *others = times
    yield Figure(first, 1000 * statistics.median(times[first]), "ms")
    for name in others:
        ratios = [mine / base for mine, base in zip(times[name], times[first], strict=True)]
        yield Figure(name, 1000 * statistics.median(times[name]), "ms")
        yield Figure(
            f"{name}, ratio to eager torch",
            statistics.median(ratios),
            f"over {ROUNDS} turns",
            f"{min(ratios):.2f}–{max(ratios):.2f}",
            MOST_RATIO if name == "fp32" else None,
        )


def timed(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def loading(found: dict[str, Path]) -> Iterator[Figure]:
    """Processor's seconds for 100 MB, once the libraries are imported and the file was read before."""
    from lvexport.validation import mil

    def seconds_of(path: Path) -> float:
        start = time.process_time()
        mil.load(path)
        return (time.process_time() - start) * 1e8 / size(path)

    for recipe, path in found.items():
        seconds = [seconds_of(path) for _ in range(ROUNDS)]
        yield Figure(
            f"{recipe}, loading 100 MB",
            statistics.median(seconds),
            "s of processor time",
            f"{min(seconds):.2f}–{max(seconds):.2f}",
            MOST_LOAD,
        )


def memory(found: dict[str, Path]) -> Iterator[Figure]:
    """In processes of their own: what loading adds, and what a prediction adds to that."""
    for recipe, path in found.items():
        base, loaded, peak = taken_by(path)
        yield Figure(f"{recipe}, memory once loaded", (loaded - base) / size(path), "× package", "", MOST_MEMORY)
        yield Figure(f"{recipe}, memory of a prediction", (peak - loaded) / 1e6, "MB more")
    with tempfile.TemporaryDirectory() as scratch:
        path = palettes(Path(scratch))
        base, _, peak = taken_by(path)
        what = f"{size(path) >> 20} MiB of 4 bits, memory in all"
        yield Figure(what, (peak - base) / size(path), "× package", "", MOST_MEMORY)


def taken_by(path: Path) -> tuple[int, ...]:
    """What ``memory_of`` prints of a package."""
    line = [sys.executable, __file__, "--memory-of", str(path)]
    return tuple(map(int, subprocess.run(line, check=True, capture_output=True, text=True).stdout.split()))


def memory_of(path: Path) -> None:
    """Print the bytes that this process has taken at most: before loading, after it, and after a prediction."""
    import numpy as np

    from lvexport.validation import mil
    from lvexport.validation.mil import model as imported  # what load would import
    from lvexport.validation.mil.protos import data_type_name

    assert imported
    data_type_name(0)  # loads coremltools' message definitions
    taken = [most_memory()]
    model = mil.load(path)
    taken.append(most_memory())
    model.predict({feature.name: np.zeros(feature.shape, feature.dtype) for feature in model.inputs})
    print(*taken, most_memory())


def most_memory() -> int:
    """Of this program; what getrusage says would include the process that started it."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def size(package: Path) -> int:
    return sum(path.stat().st_size for path in package.rglob("*") if path.is_file())


def main() -> int:
    from lvexport import machine

    with tempfile.TemporaryDirectory() as scratch:
        found = packages(Path(scratch))
        print(f"{NETWORK}, {THREADS} thread, {machine.describe()}")
        met = True
        for measure in (speed, loading, memory):
            for figure in measure(found):
                print(figure, flush=True)
                met = met and figure.met
    return 0 if met else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory-of"]:
        memory_of(Path(sys.argv[2]))
    else:
        sys.exit(main())
