"""What a person sees: results on standard output, progress and warnings on standard error."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lvexport import render_integers
from lvexport.validation.accuracy import finding
from lvexport.validation.contract import JUDGED

if TYPE_CHECKING:
    from lvexport.benching import Benchmark
    from lvexport.bundle import Bundle
    from lvexport.doctor import Health, TargetHealth
    from lvexport.informing import Info
    from lvexport.making import Report
    from lvexport.manifest import ArtifactInfo, CompressionInfo, OverflowInfo, VerdictInfo
    from lvexport.profiling import Profiled
    from lvexport.training.loop import Step
    from lvexport.training.run import Outcome

_STYLES = {"ok": "green", "failed": "bold red", "error": "bold red", "not-run": "yellow"}


# Columns that a table may take where the output is no terminal, so that nothing in a log is cut off.
_LOG_WIDTH = 160


def out() -> Console:
    return _console(sys.stdout)


def err() -> Console:
    return _console(sys.stderr)


def _console(file: TextIO) -> Console:
    terminal = file.isatty()
    return Console(file=file, highlight=False, soft_wrap=not terminal, width=None if terminal else _LOG_WIDTH)


def warn(text: str, loud: bool) -> None:
    err().print(Text(f"lvexport: {text}", style="bold yellow" if loud else ""))


class _Spoken(logging.Handler):
    """Says on standard error what the library notes, such as the start of a download."""

    def emit(self, record: logging.LogRecord) -> None:
        warn(record.getMessage(), loud=False)


def listen() -> None:
    """Let the library's notes be heard."""
    logger = logging.getLogger("lvexport")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, _Spoken) for handler in logger.handlers):
        logger.addHandler(_Spoken())


@contextmanager
def progress(silent: bool) -> Iterator[Report]:
    """A function to report to. On a terminal each thing at work has a line with a clock; elsewhere, a line a change."""
    if silent:
        yield lambda what, state: None
    elif sys.stderr.isatty():
        with _live() as report:
            yield report
    else:
        start = time.monotonic()
        yield lambda what, state: print(
            f"[{time.monotonic() - start:5.1f} s] {what}: {state}", file=sys.stderr, flush=True
        )


@contextmanager
def _live() -> Iterator[Report]:
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(finished_text=" "),
        TextColumn("{task.description:<18}"),
        TextColumn("{task.fields[state]}"),
    )
    with Progress(*columns, TimeElapsedColumn(), console=err()) as shown:
        tasks: dict[str, Any] = {}
        lock = threading.Lock()

        def report(what: str, state: str) -> None:
            with lock:
                if what not in tasks:
                    tasks[what] = shown.add_task(what, total=1, state=state)
                ended = state in ("done", *_STYLES)
                shown.update(tasks[what], state=state, completed=1 if ended else 0)

        yield report


TrainingReport = tuple[Callable[["Step"], None], Callable[[int], None]]
LOG_SECONDS = 15  # between two lines on the progress of a training where the output is no terminal


@contextmanager
def training_progress(silent: bool) -> Iterator[TrainingReport]:
    """Functions to be told of each step, and of the samples that earlier runs saw. A bar, or a line now and then."""
    if silent:
        yield (lambda step: None), (lambda samples: None)
    elif sys.stderr.isatty():
        with _bar() as reports:
            yield reports
    else:
        yield _lines()


@contextmanager
def _bar() -> Iterator[TrainingReport]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %  loss {task.fields[loss]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=err(), speed_estimate_period=120) as shown:
        task = shown.add_task("train", total=None, epoch=1, loss="")

        def report(step: Step) -> None:
            shown.update(task, total=step.of, completed=step.samples, epoch=step.epoch, loss=f"{step.loss:.3f}")

        yield report, lambda samples: shown.console.print(_resumed(samples))


def _lines() -> TrainingReport:
    start, known, printed = time.monotonic(), 0, 0.0

    def resuming(samples: int) -> None:
        nonlocal known
        known = samples
        print(_resumed(samples), file=sys.stderr, flush=True)

    def report(step: Step) -> None:
        nonlocal printed
        elapsed = time.monotonic() - start
        if elapsed - printed < LOG_SECONDS and step.samples < step.of:
            return
        printed = elapsed
        left = elapsed / max(1, step.samples - known) * (step.of - step.samples)
        done = f"epoch {step.epoch}, {step.samples / step.of:.1%}, loss {step.loss:.3f}"
        print(f"[{elapsed:6.0f} s] {done}, {left:.0f} s left", file=sys.stderr, flush=True)

    return report, resuming


def _resumed(samples: int) -> str:
    return f"lvexport: going on after {samples:,} samples, where the last run was."


def training_result(outcome: Outcome) -> None:
    """What was trained, how good it is, and what to type next."""
    card, say = outcome.card, out().print
    size = card["schedule"]["imgsz"]
    if outcome.kept:
        say("This training is finished already; --force does it anew.")
    say(
        f"{card['model']}: {percent(card['test_accuracy'])} of {card['test_images']:,} test images right at {size} × "
        f"{size} pixels, after {card['training_seconds']:,} s of training"
    )
    for suffix, what in ((".safetensors", "weights"), (".md", "model card"), (".json", "card"), (".svg", "curve")):
        say(Text(f"  {outcome.weights.with_suffix(suffix)!s:<48} {what}"))
    say(Text("\nNext:", style="bold"))
    say(Text(f"  lvexport {card['model']} --weights {outcome.weights} --to coreml"))


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A plain table."""
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(r[i], int) and not isinstance(r[i], bool) for r in rows)
        grid.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        grid.add_row(*map(cell_text, row))
    out().print(grid)


def cell_text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    return f"{value:,}" if isinstance(value, int) else str(value)


def results(bundle: Bundle) -> Table:
    """One row an artifact: size, verdict, figures."""
    labelled = any(a.verdict is not None and a.verdict.accuracy is not None for a in bundle.results)
    bounded = any(a.verdict is not None and a.verdict.interval is not None for a in bundle.results)
    rounded = any(a.verdict is not None and a.verdict.compression is not None for a in bundle.results)
    columns = ["target", "recipe", "MiB", "verdict", "SQNR dB", *(["as rounded"] if rounded else [])]
    columns += ["interval"] if bounded else []
    columns += ["top-1", "retrieval"]
    columns += ["accuracy", "original"] if labelled else []
    grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for column in [*columns, "s"]:
        grid.add_column(column, justify="left" if column in ("target", "recipe", "verdict") else "right", no_wrap=True)
    for artifact in bundle.results:
        grid.add_row(*result_row(artifact, labelled, bounded, rounded))
    return grid


def result_row(a: ArtifactInfo, labelled: bool, bounded: bool, rounded: bool) -> list[Text]:
    size = "" if a.bytes is None else f"{a.bytes / 2**20:.2f}"
    row = [Text(a.target), Text(a.recipe), Text(size), Text(a.status, style=_STYLES[a.status])]
    row += map(Text, figures(a, labelled, bounded, rounded))
    return [*row, Text(f"{a.seconds:.0f}" if a.seconds else "")]


def figures(a: ArtifactInfo, labelled: bool, bounded: bool, rounded: bool) -> list[str]:
    """What was measured, or blanks."""
    v = a.verdict
    if v is None:
        return [""] * (3 + 2 * labelled + bounded + rounded)
    found = [f"{v.sqnr_db:.1f}", *([as_rounded(v)] if rounded else []), *([interval(v)] if bounded else [])]
    found += [percent(v.top1_agreement), percent(v.retrieval_agreement)]
    return [*found, percent(v.accuracy), percent(v.reference_accuracy)] if labelled else found


def as_rounded(v: VerdictInfo) -> str:
    """How near the artifact is to PyTorch with the same rounded weights."""
    found = None if v.compression is None else v.compression.sqnr_db
    return "" if found is None else f"{found:.1f}"


def interval(v: VerdictInfo) -> str:
    """From the worst to the best of the ways in which a device may compute the artifact."""
    if v.interval is None:
        return ""
    if v.interval.overflow is not None and v.interval.overflow.numerics == JUDGED:
        return "OVERFLOW"
    return f"{min(v.interval.sqnr_db.values()):.1f}–{max(v.interval.sqnr_db.values()):.1f}"


def percent(value: float | None) -> str:
    """Never rounded up to 100 %."""
    if value is None:
        return ""
    return "100 %" if value == 1 else f"{min(value, 0.9999):.2%}".replace("%", " %")


def problems(bundle: Bundle) -> None:
    """A paragraph for each artifact that is not as it should be."""
    for a in bundle.results:
        name = a.path or f"{a.target} {a.recipe}"
        v = a.verdict
        found = overflow(v)
        if found is not None and found.numerics == JUDGED:
            text = f"{name} overflows: {found.operation} {BEYOND} {REMEDY}"
        elif a.status == "failed" and a.error is not None:
            text = f"{name} failed its verdict: {a.error}. Do not ship it."
        elif a.status == "failed" and v is not None and v.compression is not None:
            text = f"{name} {compression_problem(a.recipe, v, v.compression)} Do not ship it.{by_others(a)}"
        elif a.status == "failed" and v is not None and v.max_abs_error is None:
            text = (
                f"{name} answers with infinite numbers or NaN where the original has finite ones. In half precision, "
                "numbers beyond ±65,504 are infinite. Do not ship it: make it with --quantize fp32, or scale what the "
                "network computes with."
            )
        elif a.status == "failed" and v is not None:
            text = (
                f"{name} does not compute what the original computes: {v.sqnr_db:.1f} dB over {v.samples:,} inputs, "
                f"and {a.recipe} leaves at least {v.threshold_db:.1f} dB. Do not ship it. docs/verdict.md says what to "
                "look at."
            )
        elif a.status == "error":
            text = f"{name}: {a.error}. Type the command again with --debug for what its process printed."
        elif a.status == "not-run":
            text = f"{name} was built but NOT RUN: {(a.error or '').rstrip('.')}."
        else:
            continue
        err().print(Text(f"lvexport: {text}", style="red"))


def compression_problem(recipe: str, v: VerdictInfo, c: CompressionInfo) -> str:
    """What is wrong with an artifact whose weights are integers."""
    if c.layers is not None and c.layers.wrong:
        layer, why = next(iter(c.layers.wrong.items()))
        return (
            f"does not hold the integers that the network was rounded to: of {c.layers.expected} layers, "
            f"{len(c.layers.wrong)} are not as they should be. In {layer}, {why}."
        )
    if c.sqnr_db is not None and c.threshold_db is not None and c.sqnr_db < c.threshold_db:
        return (
            f"does not compute what the original computes with weights rounded as {recipe} has them: "
            f"{c.sqnr_db:.1f} dB over {v.samples:,} inputs, and arithmetic leaves at least {c.threshold_db:.1f} dB. "
            "Its integers, scales or zero points are not the right ones."
        )
    losses = [f"retrieval agreement {percent(v.retrieval_agreement)}, where {percent(c.min_retrieval)} has to be left"]
    if v.accuracy is not None:
        most = f"where {100 * c.max_drop:.1f} points may be lost"
        losses.append(f"accuracy {percent(v.accuracy)} of {percent(v.reference_accuracy)}, {most}")
    what = "computes what it should, but weights rounded as" if c.sqnr_db is not None else "is in integers, which as"
    return f"{what} {recipe} has them lose too much over {v.samples:,} inputs: {'; '.join(losses)}. Use more bits."


def by_others(a: ArtifactInfo) -> str:
    """What to type for an artifact that has not the integers of lvexport, and need not where others rounded it."""
    known = a.verdict is not None and a.verdict.compression is not None and a.verdict.compression.sqnr_db is not None
    return " If another tool rounded it, --max-drop 1 judges what that costs." if known and a.network is None else ""


BEYOND = (
    "is the first operation whose numbers leave the range of half precision, ±65,504, where single precision has them "
    "finite."
)
REMEDY = (
    "Do not ship it: make it with --quantize fp32, or scale what comes before that operation. docs/verdict.md says "
    "what to look at."
)


def doubts(bundle: Bundle) -> None:
    """A paragraph for each artifact that only some devices may compute as they should."""
    for a in bundle.results:
        found = overflow(a.verdict)
        if found is not None and found.numerics != JUDGED:
            warn(
                f"{a.path} may overflow where a device keeps sums in half precision: summed so, {found.operation} "
                f"{BEYOND} The verdict does not count that; try the package on the oldest device that has to run it.",
                loud=True,
            )


def overflow(verdict: VerdictInfo | None) -> OverflowInfo | None:
    return None if verdict is None or verdict.interval is None else verdict.interval.overflow


def logs(bundle: Bundle) -> None:
    """What the processes printed whose work failed."""
    for label, text in bundle.logs.items():
        err().rule(label)
        print(text, file=sys.stderr)


def origins(bundle: Bundle) -> Text:
    """Where the figures come from, and what they had to reach."""
    verdicts = {a.target: a.verdict for a in bundle.results if a.verdict is not None}
    judged = [(a, a.verdict) for a in bundle.results if a.verdict is not None]
    needed = {a.recipe: v.threshold_db for a, v in judged if v.threshold_db is not None and v.compression is None}
    lines = [f"{target}: {v.runtime}, n = {v.samples:,}, {v.inputs}" for target, v in verdicts.items()]
    intervals = [a.verdict.interval for a in bundle.results if a.verdict is not None and a.verdict.interval is not None]
    if intervals:
        lines.append(
            "interval: SQNR in dB from sums kept in half precision to nothing rounded to it, "
            f"n = {intervals[0].samples:,}"
        )
    if needed:
        least = ", ".join(f"{recipe} {threshold:.1f} dB" for recipe, threshold in needed.items())
        lines.append(f"least SQNR that passes: {least}")
    lines += [f"{a.target} {a.recipe}: {budget(v.compression)}" for a, v in judged if v.compression is not None]
    return Text("\n".join(lines), style="dim")


def budget(c: CompressionInfo) -> str:
    """What an artifact whose weights are integers had to keep."""
    if c.sqnr_db is None:
        faithful = "how it was rounded is not known, so its integers were not compared"
    else:
        faithful = (
            f"at least {c.threshold_db:.1f} dB beside PyTorch with weights so rounded, which is {c.network_db:.1f} dB "
            "from the original"
        )
    lost = f"at most {100 * c.max_drop:.1f} points of accuracy lost, retrieval at least {percent(c.min_retrieval)}"
    return f"{faithful}; {lost}"


def export_result(bundle: Bundle) -> None:
    """What was made, and what to type next."""
    out().print(results(bundle))
    out().print(origins(bundle))
    tables = (render_integers.summaries, render_integers.searches, render_integers.fronts)
    for shown in (one for table in tables for one in table(bundle)):
        out().print(shown)
    for text in render_integers.uncovered(bundle):
        warn(text, loud=True)
    evaluations(bundle)
    doubts(bundle)
    problems(bundle)
    say = out().print
    say(Text(f"\n{bundle.path}/", style="bold"))
    for a in bundle.results:
        if a.path is not None:
            say(Text(f"  {a.path}"))
    if bundle.manifest.front is not None:
        say(Text(f"  {bundle.manifest.front.path}"))
    good = [a for a in bundle.results if a.status == "ok"]
    if not good:
        return
    say(Text("\nNext:", style="bold"))
    say(Text(f"  lvexport verify {bundle.path}      # anywhere the bundle is copied to"))
    say(Text(f"  lvexport bench {bundle.path}       # latency on this machine"))
    say(Text(f"  lvexport info {bundle.path / (good[0].path or '')}"))


def verify_result(bundle: Bundle) -> None:
    """The new verdicts."""
    out().print(results(bundle))
    out().print(origins(bundle))
    doubts(bundle)
    problems(bundle)


def evaluation_result(bundle: Bundle) -> None:
    """Accuracy, and what could not be run."""
    evaluations(bundle)
    problems(bundle)


def evaluations(bundle: Bundle) -> None:
    """Accuracy of the artifacts and the original on labelled pictures, where it was measured."""
    found = [(a, a.evaluation) for a in bundle.results if a.evaluation is not None]
    if not found:
        return
    ranked = any(e.top5 is not None for _, e in found)
    columns = ["target", "recipe", "top-1", "95 %", "original", "95 %"]
    columns += ["top-5", "95 %", "original", "95 %"] if ranked else []
    grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for column in [*columns, "lost", "won", "p", "beside the original"]:
        grid.add_column(column, justify="left" if column in ("target", "recipe") else "right", no_wrap=True)
    for artifact, e in found:
        row = [artifact.target, artifact.recipe, *share(e.top1, e.top1_interval)]
        row += share(e.original_top1, e.original_top1_interval)
        if ranked:
            row += [*share(e.top5, e.top5_interval), *share(e.original_top5, e.original_top5_interval)]
        said = finding(e.only_original, e.only_artifact)
        row += [f"{e.only_original:,}", f"{e.only_artifact:,}", probability(e.p_value)]
        grid.add_row(*map(Text, row), Text(said, style="bold red" if said == "worse" else ""))
    out().print(Text("\nAccuracy", style="bold"))
    out().print(grid)
    kinds = {f"n = {e.images:,}, {e.data}, SHA-256 {e.sha256[:12]}…" for _, e in found}
    meaning = "lost, won: pictures that only the original, only the artifact has right; p: exact test of McNemar"
    out().print(Text("\n".join([*sorted(kinds), meaning]), style="dim"))


def share(value: float | None, interval: tuple[float, float] | None) -> tuple[str, str]:
    """A share and its interval, in percent."""
    if value is None or interval is None:
        return "", ""
    return percent(value), f"{100 * interval[0]:.2f}–{100 * interval[1]:.2f}"


def probability(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else f"{p:.0e}"


def information(info: Info) -> None:
    out().print(Text(info.title, style="bold"))
    table(("what", "value"), info.rows)
    counts = sorted(info.operators.items(), key=lambda item: (-item[1], item[0]))
    out().print()
    table(("operator", "count"), counts)


def benchmark(found: Benchmark) -> None:
    rows = [
        (
            t.artifact,
            t.runtime,
            f"{t.median:.2f} ms",
            f"{t.quartiles[0]:.2f}–{t.quartiles[1]:.2f}",
            f"{t.fastest:.2f}–{t.slowest:.2f}",
            f"{t.ratio:.2f}",
            f"{t.ratio_spread[0]:.2f}–{t.ratio_spread[1]:.2f}",
        )
        for t in found.timings
    ]
    table(("artifact", "runtime", "median", "quartiles", "range", "ratio to first", "range of ratios"), rows)
    runs = found.timings[0].runs if found.timings else 0
    out().print(
        Text(f"{found.machine}; {found.threads} threads; {runs} runs in {found.rounds} turns each", style="dim")
    )


SLOWEST = 20  # operations that a profile shows; --json has them all


def profiled(found: Profiled) -> None:
    rows = [
        (
            f"{op.seconds * 1e3:.3f}",
            f"{op.seconds / found.seconds:.1%}" if found.seconds else "",
            f"{op.read / 1e6:.3f}",
            f"{op.written / 1e6:.3f}",
            op.runs,
            op.type,
            f"{op.name} {list(op.shape)}" if op.shape is not None else op.name,
        )
        for op in found.slowest(SLOWEST)
    ]
    table(("ms", "share", "MB read", "MB written", "runs", "operation", "makes"), rows)
    read, written = sum(op.read for op in found.ops) / 1e6, sum(op.written for op in found.ops) / 1e6
    told = f"{found.seconds * 1e3:.2f} ms, {read:,.1f} MB read and {written:,.1f} MB written"
    how = f"{found.machine}; {found.threads} threads; medians over {found.inferences} inferences"
    out().print(Text(f"{len(found.ops)} operations: {told}; {how}", style="dim"))


def running(health: TargetHealth) -> str:
    """What follows the name of a target's runtime."""
    if health.runs:
        return f" ({health.note})" if health.note else ""
    return " MISSING" if health.remedy else ", not here"


def health(found: Health) -> None:
    """The doctor's findings."""
    say = out().print
    say(Text(f"lvexport {found.lvexport}, Python {found.python}, torch {found.torch or 'MISSING'}"))
    say(Text(f"{found.machine}, {found.memory_gib} GiB of memory"))
    rows = [
        (
            t.target,
            ", ".join(f"{name} {version or 'MISSING'}" for name, version in t.libraries.items()),
            f"{t.runtime}{running(t)}",
            t.remedy,
        )
        for t in found.targets
    ]
    table(("target", "builds with", "runs with", "to get what is missing"), rows)
