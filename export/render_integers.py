"""What of an artifact integers compute, as text and tables."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from lvexport.bundle import Bundle
from lvexport.manifest import ArtifactInfo, FrontInfo, PointInfo, QuantizationInfo

SHOWN = 8  # layers that stay in floating point, or leave their range, that are named


def summaries(bundle: Bundle) -> list[Text]:
    """A line for each artifact in which integers compute layers."""
    return [Text(line(a, a.quantization), style="dim") for a in bundle.results if a.quantization is not None]


def line(a: ArtifactInfo, q: QuantizationInfo) -> str:
    """Shares, transitions, and which layers stayed in floating point."""
    there, back = q.transitions
    parts = [
        f"{a.target} {a.recipe}: integers hold {q.weights:.1%} of the weights and compute {q.macs:.1%} of the "
        f"multiply-accumulates, in {q.layers} layers",
        f"{there} tensors go from floating point to integers and {back} back",
        f"calibrated with {q.calibration.count} inputs ({q.calibration.observer})",
    ]
    if q.narrow:
        parts.append(f"4 bits for {q.narrow:.1%} of the weights")
    if q.floating:
        parts.append(f"left in floating point, for the noise they add: {named(q.floating)}")
    return "; ".join(parts)


def named(layers: dict[str, float]) -> str:
    """The first few, and how many there are besides."""
    first = ", ".join(f"{name} ({noise:.1e})" for name, noise in list(layers.items())[:SHOWN])
    return first if len(layers) <= SHOWN else f"{first} and {len(layers) - SHOWN} more"


def uncovered(bundle: Bundle) -> list[str]:
    """A warning for each artifact whose calibration did not see what it was judged with."""
    return [
        f"{a.path}: calibration did not cover what the verdict was taken over. Ranges were left, by share: "
        f"{shares(a.quantization.exceeded)}. Give inputs that are more like those with --calib."
        for a in bundle.results
        if a.quantization is not None and a.quantization.exceeded
    ]


def shares(exceeded: dict[str, float]) -> str:
    first = ", ".join(f"{name} by {excess:.0%}" for name, excess in list(exceeded.items())[:SHOWN])
    return first if len(exceeded) <= SHOWN else f"{first} and {len(exceeded) - SHOWN} more"


def searches(bundle: Bundle) -> list[Table]:
    """What the search measured, where it had to choose: the cheapest choices first."""
    tables = []
    for a in bundle.results:
        if a.quantization is not None and len(a.quantization.steps) > 1:
            tables.append(search(f"{a.target} {a.recipe}", a.quantization))
    return tables


def search(title: str, q: QuantizationInfo) -> Table:
    grid = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    columns: Sequence[str] = ("floating layers", "integer weights", "integer MACs", "SNR dB", "retrieval", "drop", "n")
    for column in columns:
        grid.add_column(column, justify="right", no_wrap=True)
    for step in q.steps:
        drop = "" if step.loss.drop is None else f"{100 * step.loss.drop:.2f}"
        grid.add_row(
            str(step.kept),
            f"{step.weights:.1%}",
            f"{step.macs:.1%}",
            f"{decibels(step.loss.noise):.1f}",
            f"{step.loss.retrieval:.2%}",
            drop,
            str(step.loss.samples),
            style="bold" if step.kept == len(q.floating) else None,
        )
    return grid


def fronts(bundle: Bundle) -> list[Table | Text]:
    """What each search chose, beside other artifacts that were made and measured."""
    shown: list[Table | Text] = []
    for a in bundle.results:
        if a.quantization is not None and a.quantization.front is not None:
            found = a.quantization.front
            shown += [front(f"{a.target} {a.recipe}: size, latency and accuracy", found), Text(notes(found), "dim")]
    return shown


def front(title: str, found: FrontInfo) -> Table:
    grid = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    columns = (
        "artifact",
        "floating layers",
        "bytes",
        "ms",
        "quartiles",
        "points lost",
        "retrieval",
        "SQNR dB",
        "n",
        "front",
    )
    for column in columns:
        left = column in ("artifact", "front")
        grid.add_column(column, justify="left" if left else "right", no_wrap=True)
    for point in found.points:
        grid.add_row(*front_row(point), style="bold" if point.chosen else None)
    return grid


def front_row(point: PointInfo) -> list[str]:
    ms = point.latency
    return [
        f"{point.recipe}{', chosen' if point.chosen else ''}",
        "all" if point.kept is None else str(point.kept),
        f"{point.bytes:,}",
        "" if ms is None else f"{ms.median:.2f}",
        "" if ms is None else f"{ms.quartiles[0]:.2f}–{ms.quartiles[1]:.2f}",
        "" if point.drop is None else f"{100 * point.drop:.2f}",
        f"{point.retrieval_agreement:.2%}",
        f"{point.sqnr_db:.1f}",
        f"{point.samples:,}",
        "yes" if point.on_front else "no",
    ]


def notes(found: FrontInfo) -> str:
    """Where that was measured, what a front is, and what is missing."""
    runs = next((p.latency.runs for p in found.points if p.latency is not None), 0)
    how = (
        f"{runs} runs each, in turn, {found.threads} thread of {found.machine}"
        if runs
        else f"not timed: {found.untimed}"
    )
    lines = [f"{found.runtime}; {how}; n inputs that neither calibration nor search saw"]
    lines.append("front: nothing else here is as small, as fast and as accurate, and better in one of these")
    chosen = next((p for p in found.points if p.chosen), None)
    if chosen is not None and chosen.kept == 0 and len(found.points) == 2:
        lines.append(
            "all layers in integers keep the budget, so nothing lies between; --front 3 makes three choices more"
        )
    lines += [f"{name} is missing: {why}" for name, why in found.left_out.items()]
    return "\n".join(lines)


def decibels(noise: float) -> float:
    """Of the signal over noise of this power beside it."""
    from math import log10

    return -10 * log10(noise) if noise > 0 else float("inf")
