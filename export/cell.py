"""One job in a process of its own: ``python -m lvexport.cell job.json [MODULE…]``.

The modules are imported ahead, and then the job is waited for, if it is not there yet. The answer is written beside it,
as ``answer.json``. Standard input stays open as long as whoever started the process lives; when it closes, the process
ends, so that nothing is left running behind a killed run.
"""

from __future__ import annotations

import gc
import json
import os
import re
import statistics
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import to_jsonable_python

from lvexport.converters.contract import ConversionError, TooLarge
from lvexport.errors import CellError, LvexportError, UsageError
from lvexport.jobs import (
    ANSWER,
    JOB,
    Answer,
    BenchJob,
    Bound,
    CaptureJob,
    CompressJob,
    ConvertJob,
    CostJob,
    DescribeJob,
    Failure,
    Inputs,
    Job,
    ProfileJob,
    QuantizeJob,
    ReferenceJob,
    Rounded,
    RunJob,
    RunResult,
    SimulateJob,
)
from lvexport.models.errors import ModelError
from lvexport.validation.contract import (
    PICTURE,
    Array,
    ArtifactError,
    CannotRun,
    LabelledSession,
    Numerical,
    OpenSession,
    ProfiledSession,
    Session,
    StatefulSession,
)

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import GraphModule

    from lvexport.converters.contract import Integers
    from lvexport.converters.quantization.settings import Assignment
    from lvexport.converters.quantization.switches import Switched
    from lvexport.validation.integers.layers import Comparison, Layer

# Inputs that are also run with other numerics, one of which takes some ten times as long as the verdict's own.
BOUND_SAMPLES = 16
POLL_SECONDS = 0.02
# New objects before Python looks for garbage. Captured programs are hundreds of thousands of objects that all stay, and
# looking through them every 700 new ones takes a tenth of a conversion's time.
GARBAGE_AFTER = 100_000
COVERAGE_SAMPLES = 64  # of the inputs judged with, that are looked at for what calibration did not see
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
WARM_UP = 3  # runs that are not timed: caches, lazy initialisation


def run_capture(job: CaptureJob) -> Any:
    from lvexport.capture import capture, realise

    return capture(realise(job.source), job.out)


def run_cost(job: CostJob) -> Any:
    from lvexport.capture import count, realise

    return count(realise(job.source))


def run_compress(job: CompressJob) -> Any:
    import torch
    from safetensors.numpy import save_file

    from lvexport.converters.compression import compress
    from lvexport.converters.derived import examples
    from lvexport.converters.rewrites.apply import rewritten
    from lvexport.validation.integers.layers import packed

    program = torch.export.load(job.program)
    module, change = rewritten(program, job.rewrites)
    given = () if job.calibration is None else batches(job.calibration, job.calibration.count)
    torch.export.save(compress(module, examples(program), job.weights, given), job.out)
    save_file(packed(list(rounded_weights(module, job.weights))), job.layers)
    return change if job.rewrites else None


def rounded_weights(module: GraphModule, integers: Integers) -> Iterator[Layer]:
    """The weights of a module that were rounded, as they will be read back from artifacts."""
    from lvexport.converters.compression import form_of, requantize, weights
    from lvexport.converters.derived import constant
    from lvexport.validation.integers.layers import Layer, digest, placed

    for node in weights(module):
        name, value, form = next(iter(node.users)).name, constant(module, node), form_of(node.users, integers)
        if form.palette:
            data, scales = placed(value.numpy())
        else:
            found = requantize(value, form)
            data, scales = found.data.numpy(), found.scale.reshape(-1).double().numpy()
        yield Layer(name, digest(data, 0), scales, None, None)


def batches(inputs: Inputs, most: int) -> list[tuple[Any, ...]]:
    """The first of some inputs, as tensors."""
    import torch

    from lvexport.feeding import tensors

    return [tuple(map(torch.from_numpy, arrays)) for arrays in islice(tensors(inputs), most)]


def run_quantize(job: QuantizeJob) -> Any:
    import torch
    from safetensors.numpy import save_file

    from lvexport.converters.quantization.quantize import Calibration, Others, quantize
    from lvexport.converters.rewrites.apply import rewritten
    from lvexport.validation.integers.layers import packed

    others: list[tuple[Assignment, Path]] = []

    def take(assignment: Assignment, program: ExportedProgram) -> None:
        path = job.out.with_name(f"{job.out.stem}-{assignment.kept}-floating.pt2")
        torch.export.save(program, path)
        others.append((assignment, path))

    module, change = rewritten(torch.export.load(job.program), job.rewrites)
    labels = None if job.labels is None else torch.tensor(job.labels)
    calibration = Calibration(batches(job.calibration, job.calibration.count), labels)
    besides = None if job.others is None else Others(job.others, take)
    judged_with = batches(job.evaluated, COVERAGE_SAMPLES)
    program, integer, on = quantize(module, calibration, judged_with, job.settings, besides)
    torch.export.save(program, job.out)
    save_file(packed([as_read(switched) for switched in on]), job.layers)
    return Rounded(integer, change if job.rewrites else None, tuple(others))


def as_read(switched: Switched) -> Layer:
    """A rounded layer as it will be read back from artifacts."""
    from lvexport.validation.integers.layers import Layer, digest

    given, output = switched.given.grid, switched.output.grid
    return Layer(
        switched.site.name,
        digest(switched.weight.quantized.data.numpy(), 0),
        switched.weight.scales.double().numpy(),
        (given.scale, given.zero_point),
        (output.scale, output.zero_point),
    )


def run_convert(job: ConvertJob) -> Any:
    from lvexport.converters import provenance
    from lvexport.converters.contract import Request
    from lvexport.converters.registry import CONVERTERS

    provenance.share()
    converter = CONVERTERS[job.target]
    request = Request(converter.recipes[job.recipe], job.options)
    if not job.rewrites:
        try:
            return converter.convert(job.captured, request, job.out)
        except TooLarge as error:
            from lvexport.fitting import advice

            raise ConversionError(f"{error} {advice(job.captured.program(), error.needs, error.limits)}") from error
    from lvexport.converters.rewrites.apply import rewrite

    rewritten = rewrite(job.captured, job.rewrites)
    return replace(converter.convert(rewritten, request, job.out), sqnr_db=rewritten.sqnr_db)


def run_reference(job: ReferenceJob) -> Any:
    from lvexport.capture import evaluate, realise, state_digest, together

    model = realise(job.source).model
    if job.state_digest not in (None, state_digest(model)):
        raise UsageError(
            f"{job.source.spec} builds another network than the one that was exported, so there is no original to "
            "compare with. If it does so each time it is called, load its weights from a file, or fix the seed they "
            "are drawn with."
        )
    return evaluate(model, job.inputs, job.out, together(job.source))


def run_simulate(job: SimulateJob) -> Any:
    import torch

    from lvexport.capture import evaluate
    from lvexport.converters.activations import simulated

    return evaluate(simulated(torch.export.load(job.program), job.weights), job.inputs, job.out)


def run_artifact(job: RunJob) -> Any:
    from lvexport.feeding import save_outputs
    from lvexport.validation.runtimes.registry import RUNTIMES

    runtime = RUNTIMES[job.target]
    session = runtime.load(job.artifact, job.threads)
    times, outputs = map(list, zip(*answers(job.inputs, session), strict=True))
    save_outputs(outputs, job.out)
    bounds = bounds_of(job, session, outputs) if job.bounds and isinstance(session, OpenSession) else ()
    labels = session.labels if isinstance(session, LabelledSession) else ()
    layers = None if job.layers is None else compared(job.target, job.artifact, job.layers)
    return RunResult(runtime.available().name, session.outputs, statistics.median(times) * 1000, bounds, labels, layers)


def compared(target: str, artifact: Path, layers: Path) -> Comparison | None:
    """The layers of the rounded network beside those that the artifact holds; None where nothing here reads these."""
    from safetensors.numpy import load_file

    from lvexport.validation.integers.layers import compare, unpacked
    from lvexport.validation.integers.registry import reader

    read = reader(target)
    found = None if read is None else compare(unpacked(load_file(layers)), read(artifact))
    return found if found is not None and (found.found or found.wrong) else None


def answers(inputs: Inputs, session: Session) -> Iterator[tuple[float, list[Array]]]:
    """The seconds that each input took, and what the artifact answered; what it keeps is cleared now and then."""
    from lvexport.feeding import SEQUENCE, feeds

    for i, arrays in enumerate(feeds(inputs, session.inputs)):
        if i % SEQUENCE == 0 and isinstance(session, StatefulSession):
            session.restart()
        start = time.perf_counter()
        results = session.run(arrays)
        yield time.perf_counter() - start, [results[s.name] for s in session.outputs]


def bounds_of(job: RunJob, session: OpenSession, outputs: list[list[Array]]) -> tuple[Bound, ...]:
    """What the artifact answers to the first inputs in each way; ``outputs`` are its answers to all in its own way."""
    return tuple(bound(job, session, session.under(numerics), numerics, outputs) for numerics in session.numerics)


def bound(job: RunJob, own: Session, numerical: Numerical, numerics: str, outputs: list[list[Array]]) -> Bound:
    """Runs the artifact over the first inputs once more, unless that way is its own."""
    from lvexport.feeding import save_outputs

    if numerical is not own:
        outputs = [outputs for _, outputs in islice(answers(job.inputs, numerical), BOUND_SAMPLES)]
    out = job.out.with_name(f"{job.out.name}.{numerics}")
    save_outputs(outputs[:BOUND_SAMPLES], out)
    return Bound(numerics, min(BOUND_SAMPLES, len(outputs)), out, numerical.overflow)


def run_describe(job: DescribeJob) -> Any:
    from lvexport.validation.runtimes.registry import RUNTIMES

    return RUNTIMES[job.target].describe(job.artifact)


def run_bench(job: BenchJob) -> Any:
    from lvexport.validation.runtimes.registry import RUNTIMES

    session = RUNTIMES[job.target].load(job.artifact, job.threads)
    feed = random_feed(session)
    for _ in range(WARM_UP):
        session.run(feed)
    print("ready", flush=True)
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            start = time.perf_counter()
            session.run(feed)
            times.append((time.perf_counter() - start) * 1000)
        print(json.dumps(times), flush=True)
    return None


def run_profile(job: ProfileJob) -> Any:
    from lvexport.validation.runtimes.registry import RUNTIMES

    session = RUNTIMES[job.target].load(job.artifact, job.threads)
    if not isinstance(session, ProfiledSession):
        raise ArtifactError(
            f"the runtime of {job.target} does not tell where its time goes; only Core ML packages, which the "
            "interpreter runs, are profiled. Type the command again without --profile"
        )
    return session.profile(random_feed(session), job.inferences)


def random_feed(session: Session) -> dict[str, Array]:
    """One seeded input for each that the artifact takes."""
    import numpy as np

    from lvexport.validation.sample import synthetic

    random = np.random.default_rng(0)
    return {
        s.name: random.integers(0, 256, s.shape, dtype=np.uint8)
        if s.dtype == PICTURE
        else synthetic((s,), s.shape[0] if s.shape else 1)[s.name]
        for s in session.inputs
    }


HANDLERS: dict[type, Any] = {
    CaptureJob: run_capture,
    CostJob: run_cost,
    CompressJob: run_compress,
    QuantizeJob: run_quantize,
    ConvertJob: run_convert,
    ReferenceJob: run_reference,
    SimulateJob: run_simulate,
    RunJob: run_artifact,
    DescribeJob: run_describe,
    BenchJob: run_bench,
    ProfileJob: run_profile,
}


def perform(job: Job) -> Answer:
    """Do the job; whatever goes wrong becomes part of the answer."""
    try:
        return Answer(to_jsonable_python(HANDLERS[type(job)](job)))
    except (ModelError, UsageError) as error:
        return Answer(failure=Failure(str(error), usage=True, traceback=traceback.format_exc()))
    except CannotRun as error:
        return Answer(failure=Failure(str(error), sound=True, traceback=traceback.format_exc()))
    except (ConversionError, ArtifactError, LvexportError) as error:
        return Answer(failure=Failure(str(error), traceback=traceback.format_exc()))
    except MemoryError:
        return Answer(failure=Failure("it ran out of memory", traceback=traceback.format_exc()))
    except Exception as error:  # a converter or a user's model may raise anything
        return Answer(failure=Failure(explained(error), traceback=traceback.format_exc()))


def explained(error: BaseException) -> str:
    """What was raised and what that came from first, for some libraries say only what they were about to do next."""
    root = error
    while root.__cause__ is not None:
        root = root.__cause__
    own = f"{type(error).__name__}: {first_line(error)}"
    return own if root is error else f"{own.rstrip('.:')}, which came of {type(root).__name__}: {first_line(root)}"


def first_line(error: BaseException) -> str:
    """Of its message, without the sequences that colour it."""
    lines = [line.strip() for line in _COLOUR.sub("", str(error)).splitlines() if line.strip()]
    return lines[0] if lines else "no message"


def end_with_parent() -> None:
    """End this process when standard input closes, for then nobody waits for it any more."""

    def watch() -> None:
        sys.stdin.buffer.read()
        os._exit(CellError.exit_code)

    threading.Thread(target=watch, daemon=True).start()


def wait_for(job: Path, modules: Iterable[str]) -> None:
    """Import the modules, then wait until the job is there."""
    for module in modules:
        with suppress(Exception):  # the job's own import of it will say what is wrong
            import_module(module)
    while not job.exists():
        time.sleep(POLL_SECONDS)


def main(arguments: list[str] | None = None) -> None:
    gc.set_threshold(GARBAGE_AFTER)
    name, *modules = sys.argv[1:] if arguments is None else arguments
    path = Path(name)
    ahead = bool(modules) or not path.exists()
    if ahead:
        end_with_parent()
        wait_for(path, modules)
    job = JOB.validate_json(path.read_bytes())
    if not ahead and not isinstance(job, BenchJob):  # which reads its orders from there
        end_with_parent()
    answer = perform(job)
    finished = path.with_name("answer.part")
    finished.write_bytes(ANSWER.dump_json(answer))
    finished.replace(path.with_name("answer.json"))
    # Some libraries crash while they are being taken down; the answer is on disk, so that is not waited for.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
