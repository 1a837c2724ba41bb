"""Learns which rewrites each target gets by default: ``make learn``, an hour or more.

For every target, recipe and family the tuner searches on a small network of the family, from none, all, and the rows
that the family has for other targets, with ``--rounds N`` (1) rounds of single changes. What it finds becomes the
family's row where it costs none of the family's other networks named here more than none does; otherwise what is left
of it when the rewrites that cost them most are taken away. The row of networks that are of no family is the one that it
was, what some family has or what all families have, whichever brings most and costs none of the networks here anything.

``--add`` searches nothing: it measures the rows of the table with the rewrites named, and without those of ``--drop``,
beside these rows as they are, and none, and keeps them where no network of the family loses. What has been measured is
in runs/learn and is not measured again. ``--write`` only writes the table anew; targets and families may be named.

What leaves ExecuTorch's delegate may be faster on the processor that learns, but is slow where kernels outside are,
and stays in floating point. So what makes more than one call of the delegate is not taken, however fast it is.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from lvexport import tuning
from lvexport.converters.contract import Captured
from lvexport.converters.rewrites.defaults import OTHERS, TABLE, default
from lvexport.converters.rewrites.registry import REWRITES
from lvexport.errors import CellError
from lvexport.inputs import normalisation
from lvexport.jobs import CAPTURE, DESCRIPTION, CaptureJob, ConvertJob, DescribeJob, Job
from lvexport.models.registry import ENTRIES
from lvexport.plan import Cell, cells, measured_here
from lvexport.processes import Stop
from lvexport.source import resolve
from lvexport.tuning import Names, Search

# Family → the network that is searched on and those that may not lose by what is found, each at its own size.
FAMILIES = {
    "mobilevit": ("mobilevit_xxs", "mobilevit_s"),
    "mobilevitv2": ("mobilevitv2_050", "mobilevitv2_100"),
    "mobile_former": ("mobile_former_26m", "mobile_former_96m"),
    "efficientformer": ("efficientformer_l1", "efficientformer_nano"),
    "efficientformerv2": ("efficientformerv2_s0", "efficientformerv2_s1"),
}
NETWORKS = tuple(name for members in FAMILIES.values() for name in members)
TARGETS = {
    "tflite": ("fp32",),
    "onnx": ("fp32", "fp16"),
    "executorch": ("fp32", "fp16"),
    "coreml": ("fp32", "fp16"),
    "executorch:coreml": ("fp32", "fp16"),
    "coreai": ("fp32", "fp16"),
}
# Half precision is in the weights alone there, and the arithmetic that of the other recipe.
SAME = {("tflite", "fp16"): "fp32"}
DELEGATED, CALLS = "executorch", 1  # of the delegate, at most
ROUNDS = 25  # by which a row is accepted: more than in a search, for what it decides holds for everyone
ROOT = Path(__file__).parent.parent
WORK = ROOT / "runs" / "learn"


@dataclass
class Here:
    """Performs jobs in this process, which loads a converter once, and converts the same program once."""

    folder: Path
    most_calls: int | None = None  # of the delegate, that a rewritten program may make
    stop: Stop = field(default_factory=Stop)
    made: dict[str, Path] = field(default_factory=dict)

    def do(self, job: Job) -> Any:
        """The job's result, as plain JSON. Raises CellError where it fails."""
        if isinstance(job, ConvertJob) and (earlier := self.made.setdefault(form(job), job.out)) != job.out:
            return self.again(earlier, job.out)
        result = performed(job)
        if isinstance(job, ConvertJob) and job.target == DELEGATED and job.rewrites and self.most_calls is not None:
            refuse_parts(job.out, self.most_calls)
        return result

    def again(self, earlier: Path, out: Path) -> None:
        """Take what was made of the same program before."""
        if not earlier.exists():
            raise CellError("it could not be made before either")
        (shutil.copytree if earlier.is_dir() else shutil.copyfile)(earlier, out)


def performed(job: Job) -> Any:
    """The job's result. Raises CellError where it fails."""
    from lvexport.cell import perform

    answer = perform(job)
    if answer.failure is not None:
        raise CellError(answer.failure.message, answer.failure.traceback)
    return answer.result


def refuse_parts(program: Path, most: int) -> None:
    """Raise CellError, and remove the program, where it makes more calls of its delegate than so many."""
    if (made := parts(program)[0]) > most:
        program.unlink()
        raise CellError(f"it makes {made} calls of the delegate")


def parts(program: Path) -> tuple[int, dict[str, int]]:
    """How many calls of its delegate an ExecuTorch program makes, and how many of each operator stand outside."""
    operators = DESCRIPTION.validate_python(performed(DescribeJob(DELEGATED, program))).operators
    outside = {name: n for name, n in operators.items() if not name.startswith("delegate ")}
    return sum(operators.values()) - sum(outside.values()), outside


def form(job: ConvertJob) -> str:
    """SHA-256 over a rewritten program and what is made of it. Raises CellError where it cannot be rewritten."""
    from lvexport.capture import tensors_digest
    from lvexport.converters.contract import ConversionError
    from lvexport.converters.rewrites.apply import rewritten

    try:
        module, _ = rewritten(job.captured.program(), job.rewrites)
    except ConversionError as error:
        raise CellError(str(error)) from error
    module.graph.eliminate_dead_code()
    module.recompile()
    used = {node.target for node in module.graph.nodes if node.op == "get_attr"}
    held = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    numbers = tensors_digest({name: held[name] for name in sorted(used & held.keys())})
    parts = [job.target, job.recipe, str(job.captured.path), numbers, module.code]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def say(what: str, state: str) -> None:
    print(f"  {what}: {state}", file=sys.stderr, flush=True)


def search(shop: Here, cell: Cell, name: str, rounds: int = 0) -> Search:
    """A search over one network with random weights."""
    source, program = resolve(name, weights="random"), shop.folder / f"{name}.pt2"
    kept = program.with_suffix(".json")
    if not kept.exists():
        kept.write_text(json.dumps(shop.do(CaptureJob(source, program))))
    info = CAPTURE.validate_json(kept.read_bytes())
    norm = normalisation(info.source, info.inputs)
    captured = Captured(program, info.inputs, info.outputs, norm, info.source.labels)
    report = partial(say, f"{cell.label} {name}")
    return Search(shop, cell, captured, report, starts(cell, ENTRIES[name].family), rounds)


def starts(cell: Cell, family: str) -> tuple[Names, ...]:
    """What the family has for other targets, without what may not be tried here."""
    rows = [default(target, recipe, family) for target in TARGETS for recipe in ("fp32", "fp16")]
    rows += [tuple(json.loads(path.read_text())["rewrites"]) for path in sorted(WORK.glob(f"*-{family}.json"))]
    may = tuning.allowed(cell)
    found = {tuple(name for name in names if name in may): None for names in rows}
    return tuple(names for names in found if names)


def learn(cell: Cell, family: str, folder: Path, rounds: int = 1) -> dict[str, Any]:
    """The family's rewrites, and what they bring to its networks."""
    searches = [search(Here(folder, CALLS), cell, name, rounds) for name in FAMILIES[family]]
    names = searches[0].run().rewrites
    say(f"{cell.label} {family}", f"found {', '.join(names) or 'none'}")
    while names:
        networks = dict(zip(FAMILIES[family], (compare(s, names) for s in searches), strict=True))
        losing = [s for s, n in zip(searches, networks.values(), strict=True) if n["ratio"] > 1]
        if not losing:
            return row(cell, names, networks)
        names = losing[0].better(names, tuning.toggled(names, names, 1)) or ()
    return row(cell, (), {})


@dataclass(frozen=True)
class Change:
    """Rewrites that a row is to be given, and such that it is to lose."""

    more: Names = ()
    fewer: Names = ()

    def of(self, names: Names) -> Names:
        return tuple(name for name in REWRITES if name in {*names, *self.more} - {*self.fewer})


def alter(cell: Cell, family: str, folder: Path, change: Change) -> dict[str, Any] | None:
    """The family's row so changed, and what it brings to the networks whose artifacts it changes.

    None where there is none, or where it takes longer for one. Networks of no family are those of all families.
    """
    row_now = default(cell.target, cell.recipe, family)
    names = change.of(row_now)
    networks: dict[str, Any] = {}
    if not {*names} <= {*tuning.allowed(cell)}:
        return None
    for name in FAMILIES.get(family, NETWORKS):
        made = search(Here(folder, CALLS), cell, name)
        sets = [(), row_now, names]
        if None in map(made.make, sets):
            return None
        if made.digests[names] == made.digests[row_now]:
            continue
        _, before, after = made.ratios(sets, ROUNDS)
        networks[name] = told(after)
        say(f"{cell.label} {family} {name}", f"{told(before)} {told(after)}")
        if statistics.median(after) > min(1, statistics.median(before)):
            return None
    return row(cell, names, networks) if networks else None


def compare(made: Search, names: Names) -> dict[str, Any]:
    """Time with the rewrites over time without, or operators where they are counted."""
    return beside(made, [names])[0]


def beside(made: Search, candidates: Sequence[Names]) -> list[dict[str, Any]]:
    """As ``compare``, of several sets of rewrites in turn; infinite for those that nothing can be made with."""
    made.make(())
    sets = [names for names in candidates if made.make(names) is not None]
    found = dict(zip(sets, map(told, made.ratios([(), *sets], ROUNDS)[1:]), strict=True))
    return [found.get(names, {"ratio": float("inf"), "spread": [float("inf")] * 2}) for names in candidates]


def told(ratios: Sequence[float]) -> dict[str, Any]:
    """Their median, least and largest."""
    return {"ratio": round(statistics.median(ratios), 3), "spread": [round(f(ratios), 3) for f in (min, max)]}


def row(cell: Cell, names: Names, networks: dict[str, Any]) -> dict[str, Any]:
    """A row of the table with its measurement."""
    runtime, processor = measured_here(cell)[1:]
    return {"rewrites": list(names), "networks": networks, "runtime": runtime, "processor": processor}


def common(rows: Iterable[dict[str, Any]]) -> Names:
    """The rewrites that all rows have."""
    found = [set(r["rewrites"]) for r in rows]
    return tuple(name for name in REWRITES if all(name in names for names in found))


def any_of(rows: Iterable[dict[str, Any]]) -> Names:
    """The rewrites that some row has."""
    found = {name for r in rows for name in r["rewrites"]}
    return tuple(name for name in REWRITES if name in found)


def learn_others(cell: Cell, rows: Sequence[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """The rewrites for networks of no family.

    Those that they have, or what some family has, or what all have: of those that cost no network anything the ones
    that bring most over all networks. What they have stays unless others are better by more than timings differ.
    """
    candidates = list(dict.fromkeys([default(cell.target, cell.recipe, OTHERS), any_of(rows), common(rows)]))
    candidates = [names for names in candidates if names and {*names} <= {*tuning.allowed(cell)}]
    measured = NETWORKS if candidates else ()
    found = {name: beside(search(Here(folder, CALLS), cell, name), candidates) for name in measured}
    best, least = row(cell, (), {}), 1.0
    for i, names in enumerate(candidates):
        networks = {name: each[i] for name, each in found.items()}
        cost = statistics.geometric_mean(n["ratio"] for n in networks.values())
        if all(n["ratio"] <= 1 for n in networks.values()) and cost <= least * (tuning.GAIN if i else 1):
            best, least = row(cell, names, networks), cost
    return best


def kept(target: str, recipe: str, family: str) -> Path:
    return WORK / f"{target}-{recipe}-{family}.json"


def measure(target: str, families: Sequence[str], rounds: int, change: Change) -> None:
    """Learn the rows of one target that are not there yet, in this process; with a change, those that this betters."""
    for recipe in TARGETS[target]:
        (cell,) = cells([target], [recipe], {})
        for family in families:
            path = kept(target, recipe, family)
            if path.exists():
                continue
            with tempfile.TemporaryDirectory(prefix="lvexport-") as scratch:
                found = found_for(cell, family, Path(scratch), rounds, change)
            if found is not None:
                path.write_text(json.dumps(found, indent=1))


def found_for(cell: Cell, family: str, folder: Path, rounds: int, change: Change) -> dict[str, Any] | None:
    """One row; None where it stays as it is."""
    if change != Change():
        return alter(cell, family, folder, change)
    if family == OTHERS:
        rows = [json.loads(kept(cell.target, cell.recipe, f).read_text()) for f in FAMILIES]
        return learn_others(cell, rows, folder)
    return learn(cell, family, folder, rounds)


def write() -> None:
    """Put every row that was learned into the table; the others stay."""
    document = json.loads(TABLE.read_text())
    for target, recipes in TARGETS.items():
        for recipe in ("fp32", "fp16"):
            source = SAME.get((target, recipe), recipe)
            if source not in recipes:
                continue
            for family in (*FAMILIES, OTHERS):
                path = kept(target, source, family)
                if path.exists():
                    enter(document, (target, recipe, family), json.loads(path.read_text()))
    TABLE.write_text(json.dumps(document, indent=1) + "\n")


def enter(document: dict[str, Any], place: tuple[str, str, str], found: dict[str, Any]) -> None:
    """Put a row and its measurement at target, recipe and family."""
    target, recipe, family = place
    names = found.pop("rewrites")
    for part, value in (("rewrites", names), ("measured", found)):
        document[part].setdefault(target, {}).setdefault(recipe, {})[family] = value
    document["rewrites"][target][recipe].setdefault(OTHERS, [])  # nothing, until something is learned for them


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.learn")
    parser.add_argument("targets", nargs="*", default=list(TARGETS), help="those to learn for")
    parser.add_argument("--rounds", type=int, default=1, help="of single changes in each search")
    every = (*FAMILIES, OTHERS)
    parser.add_argument("--family", action="append", choices=every, help="to learn for; all, if none is named")
    for option, what in (("--add", "to each row, where that pays"), ("--drop", "from each row, with --add")):
        parser.add_argument(option, action="append", default=[], choices=list(REWRITES), help=what)
    parser.add_argument("--write", action="store_true", help="only write the table anew")
    parser.add_argument("--here", action="store_true", help="measure in this process and write no table")
    given = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    for target in () if given.write else given.targets:
        if given.here:
            measure(target, given.family or every, given.rounds, Change(tuple(given.add), tuple(given.drop)))
        else:  # converters do not all bear each other in one process
            line = [sys.executable, "-m", "tools.learn", "--here", "--rounds", str(given.rounds), target]
            for option, names in (("family", given.family or ()), ("add", given.add), ("drop", given.drop)):
                line += [f"--{option}={name}" for name in names]
            subprocess.run(line, cwd=ROOT, check=True)
    if not given.here:
        write()


if __name__ == "__main__":
    main()
