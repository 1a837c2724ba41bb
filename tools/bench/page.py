"""The results as a page and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

HEAD = """# Benchmark

Our artifacts beside those of the converters' own minimal scripts (`tools/bench/minimal.py`), one thread, timed in turn;
`make bench` measures this anew. A cell says our milliseconds, and the ratio to the minimal script's with its least and
largest value among the repetitions. *roof*: the share of this core's fastest matrix product that our artifact reaches,
its two operations for every multiply-accumulate of the network.

"""


def write(document: dict[str, Any], folder: Path) -> None:
    (folder / "bench.md").write_text(text(document))
    picture(document, folder / "bench.svg")


def text(document: dict[str, Any]) -> str:
    roofs = document["roofs"]
    best = max(roofs["gflops"].values())
    products = ", ".join(f"{name} {value:.0f}" for name, value in roofs["gflops"].items())
    lines = [
        f"Machine: {document['machine']}. GFLOP/s of a 1024 × 1024 matrix product on one core: {products}. Copying "
        f"memory: {roofs['bandwidth']:.0f} GB/s.\n",
        "| network | size | GMACs | traffic, MB | target | recipe | ours, ms | ratio | roof | delegate calls |",
        "|---" * 10 + "|",
    ]
    for name, row in document["networks"].items():
        lines += [line(name, row, cell.split(), measured, best) for cell, measured in row["cells"].items()]
    return HEAD + "\n".join(lines) + "\n"


def line(name: str, row: dict[str, Any], cell: list[str], measured: dict[str, Any], best: float) -> str:
    """One artifact's line of the table."""
    size = f"{row['imgsz']} | {row['macs'] / 1e9:.2f} | {row['traffic_bytes'] / 1e6:.0f}"
    head = f"| `{name}` | {size} | {' | '.join(cell)} |"
    if "ratio" not in measured:
        return f"{head} {measured['error']} | | | |"
    low, high = measured["spread"]
    roof = 2 * row["macs"] / measured["ours_ms"] / 1e6 / best
    calls = measured["delegation"]["calls"] if measured["delegation"] else "–"
    ratio = f"{measured['ratio']:.2f} ({low:.2f}–{high:.2f})"
    return f"{head} {measured['ours_ms']:.2f} | {ratio} | {roof:.0%} | {calls} |"


def picture(document: dict[str, Any], path: Path) -> None:
    """A bar for every ratio in single precision, with its spread, and a line where nothing is gained."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "lvexport"  # the same picture from the same numbers
    from matplotlib import pyplot as plt

    networks = document["networks"]
    targets = sorted({cell.split()[0] for row in networks.values() for cell in row["cells"]})
    figure, axes = plt.subplots(figsize=(9, 4), layout="constrained")
    width = 0.8 / len(targets)
    for i, target in enumerate(targets):
        found = [(n, row["cells"].get(f"{target} fp32", {})) for n, row in enumerate(networks.values())]
        there = [(n + i * width, c["ratio"], c["spread"]) for n, c in found if "ratio" in c]
        errors = [[r - s[0] for _, r, s in there], [s[1] - r for _, r, s in there]]
        axes.bar([x for x, _, _ in there], [r for _, r, _ in there], width, yerr=errors, label=target, capsize=2)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xticks([n + width * (len(targets) - 1) / 2 for n in range(len(networks))], list(networks), rotation=12)
    axes.set_ylabel("our time / the converter's own, fp32")
    axes.legend()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
