"""The unit of work: a small document that says all a process needs to know, and the one that it answers with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from lvexport.converters.contract import Captured, Integers, Normalisation, Notes, TensorSpec
from lvexport.converters.quantization.settings import Assignment, Integer, Settings
from lvexport.source import Source
from lvexport.validation.contract import Description, OpCost, Overflow
from lvexport.validation.integers.layers import Comparison


@dataclass(frozen=True)
class Inputs:
    """A safetensors file of inputs: ``pictures`` (n, H, W, 3) uint8, or one array a model input, in order."""

    path: Path
    count: int
    normalisation: Normalisation | None = None  # set for pictures


@dataclass(frozen=True)
class CaptureJob:
    source: Source
    out: Path
    kind: Literal["capture"] = "capture"


@dataclass(frozen=True)
class CostJob:
    """Build the model and count, without capturing it."""

    source: Source
    kind: Literal["cost"] = "cost"


@dataclass(frozen=True)
class CompressJob:
    """Round the weights of a captured program, rewritten for inference before.

    ``calibration``: inputs over which what layers give is to stay; None: each weight by itself. ``layers``: where what
    each weight is made of is written.
    """

    program: Path
    rewrites: tuple[str, ...]
    weights: Integers
    calibration: Inputs | None
    out: Path
    layers: Path
    kind: Literal["compress"] = "compress"


@dataclass(frozen=True)
class QuantizeJob:
    """Round the layers of a captured program, rewritten for inference before.

    ``calibration``: the inputs that ranges, and the search, follow from, with their classes where they are known.
    ``evaluated``: those that the artifact will be judged with. ``layers``: where what each layer is made of is written.
    ``others``: how many other assignments of layers are written besides, beyond that of all to integers; None for none.
    """

    program: Path
    rewrites: tuple[str, ...]
    settings: Settings
    calibration: Inputs
    labels: tuple[int, ...] | None
    evaluated: Inputs
    out: Path
    layers: Path
    others: int | None = None
    kind: Literal["quantize"] = "quantize"


@dataclass(frozen=True)
class ConvertJob:
    target: str
    recipe: str
    options: dict[str, str]
    captured: Captured
    out: Path
    rewrites: tuple[str, ...] = ()
    kind: Literal["convert"] = "convert"


@dataclass(frozen=True)
class ReferenceJob:
    """Run the original over the inputs. ``state_digest`` is what the capture saw, to be sure it is the same model."""

    source: Source
    inputs: Inputs
    out: Path
    state_digest: str | None = None
    kind: Literal["reference"] = "reference"


@dataclass(frozen=True)
class SimulateJob:
    """Run a program with rounded weights over the inputs, with what its layers take rounded to 8 bits as it comes.

    ``weights``: what those were rounded to.
    """

    program: Path
    weights: Integers
    inputs: Inputs
    out: Path
    kind: Literal["simulate"] = "simulate"


@dataclass(frozen=True)
class RunJob:
    """Run an artifact over the inputs; ``out`` is a safetensors file with outputs ``0``, ``1``, …

    ``bounds``: whether also in each of the ways that bound it, where it leaves open how it is computed.
    ``layers``: what each layer of the rounded network is made of, to be looked for in the artifact.
    """

    target: str
    artifact: Path
    inputs: Inputs
    out: Path
    threads: int = 1
    bounds: bool = True
    layers: Path | None = None
    kind: Literal["run"] = "run"


@dataclass(frozen=True)
class DescribeJob:
    target: str
    artifact: Path
    kind: Literal["describe"] = "describe"


@dataclass(frozen=True)
class BenchJob:
    """Load an artifact, then time as many runs as each line on standard input says, a line of JSON for a line."""

    target: str
    artifact: Path
    threads: int
    kind: Literal["bench"] = "bench"


@dataclass(frozen=True)
class ProfileJob:
    """Load an artifact, and find out where the time of so many inferences goes."""

    target: str
    artifact: Path
    threads: int
    inferences: int
    kind: Literal["profile"] = "profile"


Job = (
    CaptureJob
    | CostJob
    | CompressJob
    | QuantizeJob
    | ConvertJob
    | ReferenceJob
    | SimulateJob
    | RunJob
    | DescribeJob
    | BenchJob
    | ProfileJob
)


@dataclass(frozen=True)
class Rounded:
    """The answer to a QuantizeJob. ``sqnr_db``: what rewriting for inference left of the outputs; None without it.

    ``others``: the other assignments that were asked for, each with its program.
    """

    integer: Integer
    sqnr_db: float | None
    others: tuple[tuple[Assignment, Path], ...] = ()


@dataclass(frozen=True)
class Cost:
    """Of one inference at the captured shape, in single precision, operator by operator and nothing fused.

    ``macs``: multiply-accumulates of convolutions and matrix products. ``traffic_bytes``: what all operators read and
    write. ``operators``: how many of each kind were run.
    """

    parameters: int
    macs: int
    traffic_bytes: int
    operators: dict[str, int]

    @property
    def intensity(self) -> float:
        """Arithmetic intensity, MACs a byte."""
        return self.macs / self.traffic_bytes if self.traffic_bytes else 0.0


@dataclass(frozen=True)
class Counted:
    """The answer to a CostJob. ``source`` is the job's, with what only building the model could tell."""

    source: Source
    cost: Cost


@dataclass(frozen=True)
class Capture:
    """What is known of a program once it has been captured.

    ``depth``: the longest chain of operations that round. ``state_digest`` is over the model's numbers, ``digest`` over
    these and what is computed with them. ``source`` is the job's, with what only building the model could tell.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    cost: Cost
    depth: int
    state_digest: str
    digest: str
    source: Source


@dataclass(frozen=True)
class Bound:
    """The first ``samples`` inputs, computed with ``numerics``; ``out`` holds the outputs as in a RunJob."""

    numerics: str
    samples: int
    out: Path
    overflow: Overflow | None


@dataclass(frozen=True)
class RunResult:
    """``runtime`` as it stands in the manifest; ``milliseconds`` is the median of the runs. ``bounds``: where the
    artifact leaves open how it is computed. ``labels``: those that it holds. ``layers``: those of the
    rounded network that were looked for in it.
    """

    runtime: str
    outputs: tuple[TensorSpec, ...]
    milliseconds: float
    bounds: tuple[Bound, ...] = ()
    labels: tuple[str, ...] = ()
    layers: Comparison | None = None


@dataclass(frozen=True)
class Failure:
    """``usage`` is true where the user's request, not a library, was at fault; ``sound`` where an artifact is sound and
    nothing here can run it.
    """

    message: str
    usage: bool = False
    sound: bool = False
    traceback: str = ""


@dataclass(frozen=True)
class Answer:
    """What a cell leaves behind: a result (as plain JSON) or a failure."""

    result: Any = None
    failure: Failure | None = None


@dataclass(frozen=True)
class Limits:
    """Of one process: seconds of wall time, and bytes of memory with its children."""

    seconds: float = 1800
    memory: int = 0  # 0: four fifths of the machine's
    threads: int = 1
    environment: dict[str, str] = field(default_factory=dict)


JOB: TypeAdapter[Job] = TypeAdapter(Job)
ANSWER = TypeAdapter(Answer)
CAPTURE = TypeAdapter(Capture)
COUNTED = TypeAdapter(Counted)
ROUNDED = TypeAdapter(Rounded)
SQNR: TypeAdapter[float | None] = TypeAdapter(float | None)  # of a program after rewriting it
NOTES = TypeAdapter(Notes)
DESCRIPTION = TypeAdapter(Description)
RUN_RESULT = TypeAdapter(RunResult)
OP_COSTS: TypeAdapter[tuple[OpCost, ...]] = TypeAdapter(tuple[OpCost, ...])
