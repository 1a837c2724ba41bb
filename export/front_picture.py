"""The fronts of a bundle's artifacts as a picture. The same manifest gives the same bytes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from lvexport import files
from lvexport.manifest import ArtifactInfo, CompressionInfo, FrontInfo, Manifest, PictureInfo, PointInfo

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAME = "front.svg"
WIDTH, HEIGHT = 4.2, 3.0  # of a panel, inches
CHOSEN, ON_FRONT, DOMINATED = "tab:red", "tab:blue", "tab:gray"


def with_picture(manifest: Manifest, work: Path) -> tuple[Manifest, dict[str, Path]]:
    """The manifest with the picture of its fronts, and the file to publish; without one where no artifact has any."""
    if not fronts(manifest):
        return manifest.model_copy(update={"front": None}), {}
    path = work / NAME
    path.write_bytes(draw(manifest))
    info = PictureInfo(path=NAME, sha256=files.digest(path))
    return manifest.model_copy(update={"front": info}), {NAME: path}


def is_missing(manifest: Manifest, folder: Path) -> bool:
    """Whether there are fronts, and the picture of them is not in the folder as the manifest has it."""
    if not fronts(manifest):
        return False
    path = folder / NAME
    return manifest.front is None or not path.exists() or files.digest(path) != manifest.front.sha256


def fronts(manifest: Manifest) -> list[tuple[ArtifactInfo, FrontInfo]]:
    return [(a, a.quantization.front) for a in manifest.artifacts if a.quantization and a.quantization.front]


def draw(manifest: Manifest) -> bytes:
    """A row for each artifact: what its choices lose over their size and, where that was measured, their latency."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    found = fronts(manifest)
    with mpl.rc_context():  # whatever the user has set for other pictures
        mpl.rcdefaults()
        mpl.rcParams["svg.hashsalt"] = "lvexport"
        figure = Figure(figsize=(2 * WIDTH, HEIGHT * len(found)), layout="constrained")
        panels = figure.subplots(len(found), 2, sharey="row", squeeze=False)
        for (size, latency), (artifact, front) in zip(panels, found, strict=True):
            size.set_title(f"{manifest.model.name}, {artifact.target} {artifact.recipe}", loc="left", fontsize=9)
            size.set_ylabel(quantity(front))
            panel(size, front, [point.bytes / 2**20 for point in front.points], "MiB", artifact)
            if front.untimed is not None:
                latency.set_axis_off()
                latency.text(0.5, 0.5, "not timed", ha="center", transform=latency.transAxes, fontsize=9)
            else:
                medians = [point.latency.median if point.latency else 0.0 for point in front.points]
                panel(latency, front, medians, f"ms, {front.threads} thread", artifact)
                spreads(latency, front)
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def quantity(front: FrontInfo) -> str:
    """What the vertical axis shows."""
    lost = "accuracy" if classified(front) else "retrieval agreement"
    return f"points of {lost} lost\nn = {front.points[0].samples:,}"


def classified(front: FrontInfo) -> bool:
    """Whether accuracy is known, and not only retrieval agreement."""
    return all(point.drop is not None for point in front.points)


def loss(front: FrontInfo, point: PointInfo) -> float:
    return 100 * (point.drop or 0.0) if classified(front) else 100 * (1 - point.retrieval_agreement)


def budget(front: FrontInfo, compression: CompressionInfo) -> float:
    return 100 * (compression.max_drop if classified(front) else 1 - compression.min_retrieval)


def panel(axes: Axes, front: FrontInfo, costs: list[float], unit: str, artifact: ArtifactInfo) -> None:
    """One cost of every point, and what the point loses; those off the front are hollow."""
    for cost, point in zip(costs, front.points, strict=True):
        colour = CHOSEN if point.chosen else ON_FRONT if point.on_front else DOMINATED
        face = colour if point.on_front else "none"
        axes.plot([cost], [loss(front, point)], "o", color=colour, markerfacecolor=face, zorder=3)
        axes.annotate(
            title(point), (cost, loss(front, point)), (0, 6), textcoords="offset points", ha="center", fontsize=7
        )
    compression = artifact.verdict.compression if artifact.verdict else None
    if compression is not None:
        most = budget(front, compression)
        axes.axhline(most, color="black", linewidth=0.7, linestyle="--")
        axes.annotate("budget", (0, most), (3, 2), textcoords="offset points", fontsize=7)
    axes.set_xlim(0, 1.25 * max(costs))
    axes.set_xlabel(unit)
    axes.margins(y=0.2)
    axes.grid(linewidth=0.3)


def spreads(axes: Axes, front: FrontInfo) -> None:
    """From quartile to quartile."""
    axes.set_xlim(0, 1.25 * max(point.latency.quartiles[1] for point in front.points if point.latency is not None))
    for point in front.points:
        if point.latency is not None:
            axes.hlines(loss(front, point), *point.latency.quartiles, color="black", linewidth=0.8)


def title(point: PointInfo) -> str:
    """What a point is called: its recipe, or how many layers it leaves in floating point."""
    if point.kept is None:
        return point.recipe
    return f"{'all in integers' if not point.kept else f'{point.kept} floating'}{' (chosen)' if point.chosen else ''}"
