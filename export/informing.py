"""What can be told about a model or an artifact."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lvexport import files
from lvexport.errors import UsageError
from lvexport.jobs import COUNTED, DESCRIPTION, CostJob, DescribeJob, Limits
from lvexport.models.provenance import Weights
from lvexport.models.registry import ENTRIES, demo, families
from lvexport.overrides import NOTHING_SAID, Overrides
from lvexport.processes import Workshop
from lvexport.source import Source, resolve
from lvexport.validation.runtimes.registry import RUNTIMES
from lvexport.verification import target_of


@dataclass(frozen=True)
class Info:
    """``title`` and rows of (what, value) for people; ``document`` for scripts."""

    title: str
    rows: tuple[tuple[str, str], ...]
    operators: dict[str, int]
    document: dict[str, Any]


def about_model(
    spec: str, weights: str, num_classes: int | None, imgsz: int | None, overrides: Overrides = NOTHING_SAID
) -> Info:
    """Build the model and count."""
    resolved = resolve(spec, weights_for_counting(spec, weights), num_classes, imgsz, overrides)
    counted = COUNTED.validate_python(_ask(CostJob(resolved)))
    source, cost = counted.source, counted.cost
    p = source.preprocessing
    size = f"{source.imgsz} × {source.imgsz}" if source.imgsz else "as in the program"
    rows = (
        ("source", origin(source)),
        ("weights", taken(source.weights)),
        ("layout", source.layout or "its own"),
        ("weights SHA-256", source.weights_digest or "not known before it is captured"),
        ("parameters", f"{cost.parameters:,}"),
        ("input", f"{p.channels}, {size}; mean {p.mean}, std {p.std}, {p.interpolation}, crop {p.crop_pct}"),
        ("classes", f"{source.num_classes or 'its own'}" + (f": {', '.join(source.labels)}" if source.labels else "")),
        ("MACs", f"{cost.macs / 1e6:,.1f} M"),
        ("memory traffic", f"{cost.traffic_bytes / 1e6:,.1f} MB (fp32, nothing fused)"),
        ("arithmetic intensity", f"{cost.intensity:.2f} MACs a byte"),
    )
    document = {
        "name": source.name,
        "source": origin(source),
        "weights": {
            "kind": source.weights.kind,
            "sha256": source.weights_digest,
            "layout": source.layout,
            "repo": source.weights.repo,
            "revision": source.weights.revision,
        },
        "imgsz": source.imgsz,
        "num_classes": source.num_classes,
        "labels": source.labels,
        "preprocessing": asdict(p),
        **asdict(cost),
        "intensity": cost.intensity,
    }
    return Info(source.name, rows, cost.operators, document)


def taken(weights: Weights) -> str:
    """The weights in a few words."""
    if weights.repo is not None:
        return f"{weights.kind} {weights.repo} at {weights.revision}"
    return f"{weights.kind} {weights.path.name if weights.path else ''}".strip()


def weights_for_counting(spec: str, weights: str) -> str:
    """The weights asked for; where none were, what ships or random ones, since the counts do not depend on them."""
    name = families().get(spec, spec)
    if weights != "auto" or name not in ENTRIES:
        return weights
    return "random" if demo(name) is None else "demo"


def origin(source: Source) -> str:
    return ENTRIES[source.name].source if source.kind == "registry" else source.spec


def about_artifact(path: Path) -> Info:
    """Read the artifact's interface and count its operators."""
    if not path.exists():
        raise UsageError(f"There is no artifact at {path}.")
    target = target_of(path)
    available = RUNTIMES[target].available()
    if not available.here and available.to_be_had:
        raise UsageError(available.reason)
    found = DESCRIPTION.validate_python(_ask(DescribeJob(target, path.resolve())))
    sizes, sha256 = files.size(path), files.digest(path)
    rows = (
        ("target", target),
        ("bytes", f"{sizes:,}"),
        ("SHA-256", sha256),
        *(("input", f"{s.name}  {s.dtype} {list(s.shape)}") for s in found.inputs),
        *(("output", f"{s.name}  {s.dtype} {list(s.shape)}") for s in found.outputs),
        *(("note", remark) for remark in found.remarks),
    )
    document = {"path": str(path), "target": target, "bytes": sizes, "sha256": sha256, **asdict(found)}
    return Info(path.name, rows, dict(found.operators), document)


def _ask(job: CostJob | DescribeJob) -> Any:
    with tempfile.TemporaryDirectory(prefix="lvexport-") as scratch:
        return Workshop(Path(scratch), Limits()).do(job)
