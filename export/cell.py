"""One job in a process of its own: ``python -m lvexport.cell job.json``.

The answer is written beside the job, as ``answer.json``. Standard input stays open as long as whoever started the
process lives; when it closes, the process ends, so that nothing is left running behind a killed run.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import threading
import time
import traceback
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from lvexport.converters.contract import ConversionError
from lvexport.errors import CellError, LvexportError, UsageError
from lvexport.jobs import (
    ANSWER,
    JOB,
    Answer,
    BenchJob,
    Bound,
    CaptureJob,
    ConvertJob,
    CostJob,
    DescribeJob,
    Failure,
    Job,
    ReferenceJob,
    RunJob,
    RunResult,
)
from lvexport.models.errors import ModelError
from lvexport.validation.contract import PICTURE, Array, ArtifactError, LabelledSession, OpenSession, Session

# Inputs that are also run with other numerics, one of which takes some ten times as long as the verdict's own.
BOUND_SAMPLES = 16
WARM_UP = 3  # runs that are not timed: caches, lazy initialisation


def run_capture(job: CaptureJob) -> Any:
    from lvexport.capture import capture, realise

    return capture(realise(job.source), job.out)


def run_cost(job: CostJob) -> Any:
    from lvexport.capture import count, realise

    return count(realise(job.source))


def run_convert(job: ConvertJob) -> Any:
    from lvexport.converters.contract import Request
    from lvexport.converters.registry import CONVERTERS

    converter = CONVERTERS[job.target]
    request = Request(converter.recipes[job.recipe], job.options)
    if not job.rewrites:
        return converter.convert(job.captured, request, job.out)
    from lvexport.converters.rewrites.apply import rewrite

    rewritten = rewrite(job.captured, job.rewrites)
    return replace(converter.convert(rewritten, request, job.out), sqnr_db=rewritten.sqnr_db)


def run_reference(job: ReferenceJob) -> Any:
    from lvexport.capture import evaluate, realise, state_digest

    model = realise(job.source).model
    if job.state_digest not in (None, state_digest(model)):
        raise UsageError(
            f"{job.source.spec} builds another network each time it is called, so there is no original to compare "
            "with. Load its weights from a file, or fix the seed they are drawn with."
        )
    return evaluate(model, job.inputs, job.out)


def run_artifact(job: RunJob) -> Any:
    from lvexport.feeding import feeds, save_outputs
    from lvexport.validation.runtimes.registry import RUNTIMES

    runtime = RUNTIMES[job.target]
    session = runtime.load(job.artifact, job.threads)
    outputs, times = [], []
    for arrays in feeds(job.inputs, session.inputs):
        start = time.perf_counter()
        results = session.run(arrays)
        times.append(time.perf_counter() - start)
        outputs.append([results[s.name] for s in session.outputs])
    save_outputs(outputs, job.out)
    bounds = tuple(bound(job, session, name) for name in session.numerics) if isinstance(session, OpenSession) else ()
    labels = session.labels if isinstance(session, LabelledSession) else ()
    return RunResult(runtime.available().name, session.outputs, statistics.median(times) * 1000, bounds, labels)


def bound(job: RunJob, session: OpenSession, numerics: str) -> Bound:
    """Run the artifact over the first inputs once more, in that way."""
    from lvexport.feeding import feeds, save_outputs

    numerical = session.under(numerics)
    outputs = []
    for arrays in islice(feeds(job.inputs, numerical.inputs), BOUND_SAMPLES):
        results = numerical.run(arrays)
        outputs.append([results[s.name] for s in numerical.outputs])
    out = job.out.with_name(f"{job.out.name}.{numerics}")
    save_outputs(outputs, out)
    return Bound(numerics, len(outputs), out, numerical.overflow)


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
    ConvertJob: run_convert,
    ReferenceJob: run_reference,
    RunJob: run_artifact,
    DescribeJob: run_describe,
    BenchJob: run_bench,
}


def perform(job: Job) -> Answer:
    """Do the job; whatever goes wrong becomes part of the answer."""
    try:
        return Answer(to_jsonable_python(HANDLERS[type(job)](job)))
    except (ModelError, UsageError) as error:
        return Answer(failure=Failure(str(error), usage=True, traceback=traceback.format_exc()))
    except (ConversionError, ArtifactError, LvexportError) as error:
        return Answer(failure=Failure(str(error), traceback=traceback.format_exc()))
    except MemoryError:
        return Answer(failure=Failure("it ran out of memory", traceback=traceback.format_exc()))
    except Exception as error:  # a converter or a user's model may raise anything
        return Answer(failure=Failure(f"{type(error).__name__}: {first_line(error)}", traceback=traceback.format_exc()))


def first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else "no message"


def end_with_parent() -> None:
    """End this process when standard input closes, for then nobody waits for it any more."""

    def watch() -> None:
        sys.stdin.buffer.read()
        os._exit(CellError.exit_code)

    threading.Thread(target=watch, daemon=True).start()


def main(arguments: list[str] | None = None) -> None:
    (path,) = map(Path, sys.argv[1:] if arguments is None else arguments)
    job = JOB.validate_json(path.read_bytes())
    if not isinstance(job, BenchJob):  # which reads its orders from there
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
