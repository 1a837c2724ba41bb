"""The manifest: what a bundle is, in a form that other people's scripts can rely on."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

SCHEMA_VERSION = "1.8"


class Part(BaseModel):
    """Base of everything in the manifest: immutable, and strict about what it is given."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class WeightsInfo(Part):
    """``kind``: ``demo``, ``witness`` (both ship with lvexport), ``hub``, ``file``, ``random`` (seeded), ``own`` (the
    model's own code).

    ``repo`` and ``revision``, a commit, say what was taken from the hub. ``layout``: whose spelling the checkpoint has.
    """

    kind: Literal["demo", "witness", "hub", "file", "random", "own"]
    sha256: str | None
    path: str | None
    layout: str | None = None
    repo: str | None = None
    revision: str | None = None


class ModelInfo(Part):
    """The original. ``macs`` and ``traffic_bytes`` are of one inference at the input's shape, in single precision.

    ``depth``: the longest chain of operations that round, from which thresholds follow; 0 where it was not counted.
    """

    name: str
    source: str
    parameters: int
    macs: int
    traffic_bytes: int
    depth: int = 0
    weights: WeightsInfo


class Resize(Part):
    """The shorter side becomes ``imgsz / crop_pct`` pixels, then the centre of imgsz × imgsz is taken."""

    imgsz: int
    interpolation: str
    crop_pct: float


class InputInfo(Part):
    """The first input. What is said of pictures is null where it is none.

    ``mean`` and ``std`` are RGB; ``channels``, ``RGB`` or ``BGR``, is the order in which the model takes the colours.
    """

    shape: tuple[int, ...]
    layout: str | None
    dtype: str
    mean: tuple[float, float, float] | None
    std: tuple[float, float, float] | None
    channels: str | None = None
    resize: Resize | None


class TensorInfo(Part):
    """One input or output of the captured program."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class OverflowInfo(Part):
    """``operation`` is the first whose results leave the range of half precision with ``numerics``."""

    numerics: str
    operation: str


class IntervalInfo(Part):
    """An artifact that leaves open where half precision is rounded, computed in each of the ways that bound devices.

    ``sqnr_db`` has one figure for each of them, over the first ``samples`` inputs: ``exact``, ``rounded``,
    ``pessimistic`` (docs/verdict.md).
    """

    samples: int
    sqnr_db: dict[str, float]
    overflow: OverflowInfo | None


class LayersInfo(Part):
    """Layers of the rounded network that were looked for in the artifact, integer by integer.

    ``wrong``: layer → what of its weights, scales or zero points is not as it was rounded.
    """

    expected: int
    found: int
    wrong: dict[str, str]


class CompressionInfo(Part):
    """An artifact with integer weights beside the network with the same rounded weights, as PyTorch computes that.

    ``sqnr_db``: how near the artifact is to it, of at least ``threshold_db``. ``network_db``: how near it is to the
    original. All three are null where nothing says how weights were rounded. The artifact may lose ``max_drop`` of its
    accuracy (a share of all inputs) and has to keep ``min_retrieval`` of retrieval agreement; ``within_budget`` says
    whether it does.
    """

    sqnr_db: float | None
    threshold_db: float | None
    network_db: float | None
    max_drop: float
    min_retrieval: float
    within_budget: bool
    layers: LayersInfo | None = None


class VerdictInfo(Part):
    """A measurement over ``samples`` inputs; dB are clipped to ±300, null means "not applicable" or "not finite"."""

    passed: bool
    runtime: str
    samples: int
    sqnr_db: float
    max_abs_error: float | None
    cosine: float
    top1_agreement: float
    disagreement_margin: float | None
    retrieval_agreement: float
    accuracy: float | None
    reference_accuracy: float | None
    threshold_db: float | None
    interval: IntervalInfo | None = None
    compression: CompressionInfo | None = None
    inputs: str
    machine: str


class EvaluationInfo(Part):
    """Accuracy on labelled pictures, of the artifact and of its original on the same ones.

    ``data`` says what the pictures are, ``sha256`` is over their labels and bytes (docs/evaluation.md). Intervals are
    Wilson's, of 95 %. ``top5`` is null for five classes or fewer. ``only_original`` and ``only_artifact`` count the
    pictures that one alone has right, and ``p_value`` is of the exact test of McNemar on these.
    """

    data: str
    sha256: str
    images: int
    top1: float
    top1_interval: tuple[float, float]
    top5: float | None
    top5_interval: tuple[float, float] | None
    original_top1: float
    original_top1_interval: tuple[float, float]
    original_top5: float | None
    original_top5_interval: tuple[float, float] | None
    only_original: int
    only_artifact: int
    p_value: float
    runtime: str
    machine: str


class DelegationInfo(Part):
    """Of a program that hands parts to a backend: how many, and the operators that stayed outside with the reason."""

    calls: int
    outside: dict[str, str]


class LossInfo(Part):
    """What a choice of the search cost over ``samples`` calibration inputs. ``noise``: over the signal, in power."""

    samples: int
    noise: float
    drop: float | None
    retrieval: float


class StepInfo(Part):
    """``kept`` layers in floating point, integers with ``weights`` and ``macs`` of the whole, and what that cost."""

    kept: int
    weights: float
    macs: float
    loss: LossInfo


class CalibrationInfo(Part):
    """What the ranges of activations follow from, by an ``observer``, or fitted weights, by none."""

    inputs: str
    count: int
    sha256: str
    observer: str | None


class LatencyInfo(Part):
    """Milliseconds of one inference: the median and the quartiles of ``runs`` of them."""

    median: float
    quartiles: tuple[float, float]
    runs: int


class PointInfo(Part):
    """An artifact that was made and run, as one choice among those of a front.

    ``kept``: how many layers it leaves in floating point, null for one that knows no integers; ``weights``, ``macs``:
    shares of the whole that integers hold, compute. ``drop``: the accuracy that it loses, a share of all inputs, null
    where classes are not known. It, ``sqnr_db`` and ``retrieval_agreement`` are over the ``samples`` inputs of the
    verdict, which calibration and search did not see. ``latency`` is null where it was not timed. ``chosen``: it is the
    artifact of the bundle. ``on_front``: no other point is as small, as fast and as accurate, and better in one of
    these.
    """

    recipe: str
    kept: int | None
    weights: float
    macs: float
    bytes: int
    sha256: str
    latency: LatencyInfo | None
    samples: int
    sqnr_db: float
    retrieval_agreement: float
    drop: float | None
    chosen: bool
    on_front: bool


class FrontInfo(Part):
    """What the chosen layers are seen beside: artifacts of the same target, timed in turn on one machine.

    ``untimed``: why there are no latencies; null where there are. ``left_out``: what could not be made or run → why.
    Latencies, and what follows from them, differ from run to run; nothing else here does.
    """

    runtime: str
    machine: str
    threads: int
    inputs: str
    points: tuple[PointInfo, ...]
    untimed: str | None
    left_out: dict[str, str]


class QuantizationInfo(Part):
    """Which part of an artifact integers compute.

    ``weights``, ``macs``: shares of the numbers it holds and of its multiply-accumulates. ``floating``: layers left in
    floating point → the noise, over the signal, that rounding each alone adds. ``transitions``: tensors that go from
    floating point to integers, and back. ``equalised``: classes of channels that were scaled. ``exceeded``: tensors
    that left the range which calibration saw → by which share of it. ``steps``: of the search, ``within`` whether it
    kept the budget; null where there was none. ``narrow``: share of the numbers that integers of 4 bits hold.
    ``front``: what it chose, beside other artifacts that were measured.
    """

    layers: int
    weights: float
    macs: float
    transitions: tuple[int, int]
    floating: dict[str, float]
    equalised: int
    exceeded: dict[str, float]
    steps: tuple[StepInfo, ...]
    within: bool | None
    narrow: float = 0.0
    calibration: CalibrationInfo
    front: FrontInfo | None = None


class ArtifactInfo(Part):
    """``status``: ``ok`` (verified), ``failed`` (the verdict), ``error`` (no artifact, or it cannot run),
    ``not-run`` (built, but nothing here can run it). ``sha256`` of a folder is over its files, as docs/bundle.md says.
    ``rewrites``: of the program before it was converted, in order; they left ``rewrites_sqnr_db`` of its outputs.
    ``network``: the rounded network that it was made from, whose outputs the golden vectors have under that name.
    ``calibration``: what weights were fitted over, null where they were not.
    ``beside``: files of the bundle that go with it, such as its bytes as C source.
    """

    target: str
    backend: str
    recipe: str
    options: dict[str, str]
    route: str | None
    path: str | None
    beside: tuple[str, ...] = ()
    bytes: int | None
    sha256: str | None
    seconds: float
    status: Literal["ok", "failed", "error", "not-run"]
    error: str | None
    verdict: VerdictInfo | None
    remarks: tuple[str, ...]
    rewrites: tuple[str, ...] = ()
    rewrites_sqnr_db: float | None = None
    delegation: DelegationInfo | None = None
    network: str | None = None
    quantization: QuantizationInfo | None = None
    calibration: CalibrationInfo | None = None
    evaluation: EvaluationInfo | None = None
    key: str | None


class GoldenInfo(Part):
    """``golden.safetensors``: ``samples`` inputs with the original's outputs."""

    path: str
    sha256: str
    samples: int


class PictureInfo(Part):
    """``front.svg``: the fronts of all artifacts that have one."""

    path: str
    sha256: str


class Manifest(Part):
    """``manifest.json``, and what ``--json`` prints."""

    schema_version: str = SCHEMA_VERSION
    lvexport: str
    model: ModelInfo
    input: InputInfo
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    labels: tuple[str, ...] | None
    tools: dict[str, str]
    golden: GoldenInfo | None
    artifacts: tuple[ArtifactInfo, ...]
    front: PictureInfo | None = None
