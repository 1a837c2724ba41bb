"""The results as a page and a picture."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

HEAD = """# Benchmark

Our artifacts beside those of the converters' own minimal scripts (`tools/bench/minimal.py`), one thread, timed in turn;
`make bench` measures this anew. A line says the milliseconds of our fastest run, and the ratio of medians, ours to the
minimal script's, with its least and largest value among the repetitions. *roof*: the share of this core's fastest
matrix product that our artifact's fastest run reaches, two operations for every multiply-accumulate of the network.
Bytes and operators, as `lvexport info` counts them, of the minimal script's artifact and of ours, do not depend on the
processor; a delegate's call counts as one. Where a family has no rewrites for TFLite, both models are the same program:
*same file*, if they are so byte for byte; otherwise what their ratio is off 1.00 is noise.

"""
COLD = """
## Cold start

Seconds from a command to the artifacts of `mobilevit_xxs` with its demo weights at 64 pixels, in fresh processes on
{machine}; the minimal scripts, which run nothing of what they make, one after the
other. *one picture*: with `--samples 1`; *all*: with the verdict as it usually is, over 2,000. In brackets processor
time, which depends less on what else the machine does.

| targets | scripts, s | one picture, s | ratio | all, s | ratio |
|---|---|---|---|---|---|
"""
PACKAGES = """
## Core ML, counted

Packages of coremltools' minimal script, and of ours, by what does not depend on a device: operators, those among them
that only move numbers, casts, and the most bytes of tensors that are alive at once, in the order of the program.
Weights are random and biases zero: where a linear layer became a product, in `mobilevit_xxs` and
`efficientformer_nano`, a trained bias is an addition more, up to 9 and 2 of them.

| network | recipe | operators | moving | casts | peak, KiB |
|---|---|---|---|---|---|
"""
COLUMNS = (
    *("network", "size", "GMACs", "traffic, MB", "target", "recipe", "ours, ms", "ratio", "roof", "delegate calls"),
    *("operators", "MB"),
)
BETWEEN = re.compile(r"(<!-- bench -->\n).*?(<!-- end of bench -->)", re.DOTALL)


def write(document: dict[str, Any], root: Path) -> None:
    """The page and the picture, and the README's table."""
    (root / "docs" / "bench.md").write_text(text(document))
    picture(document, root / "docs" / "bench.svg")
    readme, written = root / "README.md", table(document)
    readme.write_text(BETWEEN.sub(lambda found: found[1] + written + found[2], readme.read_text()))


def table(document: dict[str, Any]) -> str:
    """Networks down, targets across: the ratio in single precision."""
    networks = document["networks"]
    targets = columns(networks)
    lines = [f"| {' | '.join(('network', 'size', *targets))} |", "|---" * (2 + len(targets)) + "|"]
    for name, row in networks.items():
        cells = [row["cells"].get(f"{target} fp32", {}) for target in targets]
        lines.append(f"| `{name}` | {row['imgsz']} | {' | '.join(map(ratio, cells))} |")
    return "\n".join(lines) + f"\n\nOne thread of {document['machine']}.\n"


def columns(networks: dict[str, Any]) -> list[str]:
    return sorted({cell.split()[0] for row in networks.values() for cell in row["cells"]})


def ratio(measured: dict[str, Any]) -> str:
    """A ratio with its spread, or a dash."""
    if "ratio" not in measured:
        return "–"
    if measured.get("same"):
        return "same file"
    low, high = measured["spread"]
    return f"{measured['ratio']:.2f} ({low:.2f}–{high:.2f})"


def text(document: dict[str, Any]) -> str:
    roofs = document["roofs"]
    best = max(roofs["gflops"].values())
    products = ", ".join(f"{name} {value:.0f}" for name, value in roofs["gflops"].items())
    lines = [
        f"Machine: {document['machine']}. GFLOP/s of a 512 × 512 matrix product on one core: {products}. Copying "
        f"memory: {roofs['bandwidth']:.0f} GB/s. Runtimes: {', '.join(document['runtimes'].values())}.\n",
        f"| {' | '.join(COLUMNS)} |",
        "|---" * len(COLUMNS) + "|",
    ]
    for name, row in document["networks"].items():
        lines += [line(name, row, cell.split(), measured, best) for cell, measured in row["cells"].items()]
    more = (cold(document["cold"]) if document.get("cold") else "") + counted(document.get("packages") or {})
    return HEAD + "\n".join(lines) + "\n" + more


def counted(found: dict[str, Any]) -> str:
    """The section on Core ML packages."""
    lines = []
    for name, both in found.items():
        kinds = [f"{both['minimal'][kind]} → {both['ours'][kind]}" for kind in ("operators", "moving", "casts")]
        kinds.append(f"{both['minimal']['peak_bytes'] // 1024} → {both['ours']['peak_bytes'] // 1024}")
        lines.append(f"| `{name.split()[0]}` | {name.split()[1]} | {' | '.join(kinds)} |\n")
    return PACKAGES + "".join(lines) if found else ""


def cold(found: dict[str, Any]) -> str:
    """The section on the cold start."""
    lines = [
        f"| {', '.join(c['targets'])} | {spent(c['scripts'])} | {spent(c['alone'])} | {ratio(c['alone_ratio'])} "
        f"| {spent(c['ours'])} | {ratio(c['ours_ratio'])} |\n"
        for c in (found["one"], found["four"])
    ]
    return COLD.format(machine=found["machine"]) + "".join(lines)


def spent(seconds: dict[str, float]) -> str:
    return f"{seconds['wall']:.1f} ({seconds['processor']:.1f})"


def line(name: str, row: dict[str, Any], cell: list[str], measured: dict[str, Any], best: float) -> str:
    """One artifact's line of the table."""
    size = f"{row['imgsz']} | {row['macs'] / 1e9:.2f} | {row['traffic_bytes'] / 1e6:.0f}"
    head = f"| `{name}` | {size} | {' | '.join(cell)} |"
    if "ratio" not in measured:
        return f"{head} {measured['error']} | | | | | |"
    roof = 2 * row["macs"] / measured["ours_ms"] / 1e6 / best
    calls = measured["delegation"]["calls"] if measured["delegation"] else "–"
    before, after = measured["minimal"], measured["ours"]
    operators = f"{before['operators']} → {after['operators']}"
    size = f"{before['bytes'] / 1e6:.1f} → {after['bytes'] / 1e6:.1f}"
    return f"{head} {measured['ours_ms']:.2f} | {ratio(measured)} | {roof:.0%} | {calls} | {operators} | {size} |"


def picture(document: dict[str, Any], path: Path) -> None:
    """A bar for every ratio in single precision, with its spread, and a line where nothing is gained."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "lvexport"  # the same picture from the same numbers
    from matplotlib import pyplot as plt

    networks = document["networks"]
    targets = columns(networks)
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
