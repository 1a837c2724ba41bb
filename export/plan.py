"""What is to be made, resolved once and checked before anything is built."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import lvexport
from lvexport import calibration, machine
from lvexport.calibration import Given
from lvexport.converters import apart
from lvexport.converters.contract import BUDGET, Budget, Choice, Converter, Recipe
from lvexport.converters.quantization.settings import OBSERVER_NAMES
from lvexport.converters.recipes import ALIASES as RECIPE_ALIASES
from lvexport.converters.recipes import RECIPES
from lvexport.converters.registry import ALIASES, CONVERTERS
from lvexport.converters.rewrites.defaults import INTEGERS, default
from lvexport.converters.rewrites.registry import REWRITES
from lvexport.errors import UnknownName, UsageError
from lvexport.jobs import Limits
from lvexport.source import Source
from lvexport.validation import sample
from lvexport.validation.runtimes.registry import RUNTIMES

DEFAULT_RECIPE = "fp32"
OPTIMIZE = ("default", "tune", "none")  # rewrite as the table says, as is fastest here, or not at all
DEFAULT_OPTIMIZE = OPTIMIZE[0]


@dataclass(frozen=True)
class Cell:
    """One artifact to be made."""

    target: str
    recipe: str
    options: tuple[tuple[str, str], ...]  # name and value, each that the converter declares

    @property
    def converter(self) -> Converter:
        return CONVERTERS[self.target]

    @property
    def label(self) -> str:
        return f"{self.target} {self.recipe}"

    def file_name(self, bundle: str) -> str:
        return f"{bundle}-{self.recipe}{ending(self.converter)}"


def ending(converter: Converter) -> str:
    """How the names of a target's artifacts end. A colon cannot stand in a file name everywhere."""
    return f".{converter.name.replace(':', '-')}{converter.suffix}"


def extras(target: str) -> str:
    """The extras that bring what a target needs: of ``executorch:coreml`` those of both."""
    return target.replace(":", ",")


@dataclass(frozen=True)
class Plan:
    """One call of the main job. ``front``: assignments of layers that are made and measured beside a search's own."""

    source: Source
    cells: tuple[Cell, ...]
    output: Path
    samples: int | None = None
    force: bool = False
    optimize: str = DEFAULT_OPTIMIZE
    calibration: Given = None
    observer: str = OBSERVER_NAMES[0]
    budget: Budget = BUDGET
    front: int = 0
    workers: int = os.cpu_count() or 1
    limits: Limits = Limits()

    def rewrites(self, cell: Cell) -> tuple[str, ...]:
        """What the table says for a cell; nothing where no table is asked for."""
        return default_rewrites(cell, self.source.family) if self.optimize == DEFAULT_OPTIMIZE else ()

    @cached_property
    def calibration_digest(self) -> str:
        """What tells the calibration inputs from others."""
        return calibration.digest(self.calibration)

    def count(self, imgsz: int) -> int:
        """How many inputs the verdict is taken over."""
        return min(self.samples or sample.size_of(imgsz), sample.LARGEST)


def default_rewrites(cell: Cell, family: str | None) -> tuple[str, ...]:
    """What the table says for a cell and a network of a family.

    Programs with rounded layers are the same for all targets, but for squares where half precision computes them.
    """
    recipe = cell.converter.recipes[cell.recipe]
    if recipe.weights is None:
        return default(cell.target, cell.recipe, family)
    return tuple(name for name in default(*INTEGERS, family) if REWRITES[name].suits(cell.target, recipe))


def targets(names: Iterable[str]) -> list[str]:
    """Target names as the registry has them. Raises UnknownName."""
    found = [ALIASES.get(name, name) for name in names]
    for given in found:
        if given not in CONVERTERS:
            raise UnknownName("target", given, [*CONVERTERS, *ALIASES])
    if not found:
        raise UsageError(f"No target was named. Type --to with one or more of {', '.join(CONVERTERS)}.")
    return list(dict.fromkeys(found))


def recipes(names: Iterable[str]) -> list[str]:
    """Recipe names as the registry has them. Raises UnknownName."""
    found = list(dict.fromkeys(RECIPE_ALIASES.get(name, name) for name in names)) or [DEFAULT_RECIPE]
    for given in found:
        if given not in RECIPES:
            raise UnknownName("recipe", given, RECIPES)
    return found


def known_optimize(name: str) -> str:
    """The name of a way to rewrite. Raises UnknownName."""
    if name not in OPTIMIZE:
        raise UnknownName("way to optimize", name, OPTIMIZE)
    return name


def known_observer(name: str) -> str:
    """The name of a way to choose ranges. Raises UnknownName."""
    if name not in OBSERVER_NAMES:
        raise UnknownName("observer", name, OBSERVER_NAMES)
    return name


def known_front(count: int) -> int:
    """How many choices a front has besides. Raises UsageError for fewer than none."""
    if count < 0:
        raise UsageError(
            f"--front {count} asks for fewer choices than none. Type 0 or a small number: each is one more conversion."
        )
    return count


def cells(to: Iterable[str], quantize: Iterable[str], options: Mapping[str, str]) -> tuple[Cell, ...]:
    """Every target in every recipe. ``options`` are those that were typed; each target takes the ones it declares.

    Raises UsageError for a value that no target asked for takes, and where a converter is not installed.
    """
    chosen, precisions = targets(to), recipes(quantize)
    check_options(chosen, options)
    made = []
    for target in chosen:
        converter = CONVERTERS[target]
        check_installed(converter)
        for name in precisions:
            recipe = recipe_of(converter, name)
            taken = tuple(
                (n, value_of(recipe, converter, n, choice, options)) for n, choice in converter.options.items()
            )
            made.append(Cell(target, name, taken))
    return tuple(made)


def recipe_of(converter: Converter, name: str) -> Recipe:
    """The target's recipe of that name. Raises UsageError where it has none, saying why."""
    if name not in converter.recipes:
        why = converter.refusals[name]
        raise UsageError(f"{converter.name} has no recipe {name}: {why}. It has {', '.join(converter.recipes)}.")
    return converter.recipes[name]


def value_of(recipe: Recipe, converter: Converter, name: str, choice: Choice, typed: Mapping[str, str]) -> str:
    """The value of an option: what was typed, or the default. Raises UsageError where the recipe needs another."""

    def fit(one: Recipe) -> tuple[str, ...]:
        return one.requires.get(name, choice.values)

    value = typed.get(name, fit(recipe)[0])
    if value not in fit(recipe) and (name in recipe.requires or not choice.takes(value)):
        flag = f"--{name.replace('_', '-')}"
        others = [one.name for one in converter.recipes.values() if value in fit(one)]
        raise UsageError(
            f"{converter.name} {recipe.name} needs {flag} {' or '.join(sorted(fit(recipe)))}, not {value}: what it "
            f"stores is loaded and computed with in no other way. Leave {flag} out, or choose another of its recipes; "
            f"these take {value}: {', '.join(others)}."
        )
    return value


def check_options(chosen: Iterable[str], options: Mapping[str, str]) -> None:
    """Raise UsageError for an option that none of the targets has, or a value that it does not take."""
    declared = {name: choice for t in chosen for name, choice in CONVERTERS[t].options.items()}
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if name not in declared:
            owners = [c.name for c in CONVERTERS.values() if name in c.options]
            raise UsageError(f"{flag} is an option of {', '.join(owners)}, which is not among the targets asked for.")
        if not declared[name].takes(value):
            fitting = ", ".join(sorted(declared[name].values)) + " or a whole number" * declared[name].number
            raise UsageError(f"{flag} takes {fitting}, not {value}.")


def installed(distribution: str) -> str | None:
    """The version of a distribution, or None where it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return apart.version(distribution)


def check_installed(converter: Converter) -> None:
    """Raise UsageError where a library that the converter needs is missing."""
    missing = [name for name in converter.distributions if installed(name) is None]
    if missing:
        raise UsageError(
            f"The {converter.name} converter needs {', '.join(missing)}, which is not installed. Type: "
            f"{remedy(converter.name, missing)}"
        )


def remedy(target: str, missing: Iterable[str]) -> str:
    """What to type where distributions that a target needs are missing."""
    aside = [name for name in missing if name in apart.PINS]
    extra = [] if set(missing) == set(aside) else [f"pip install 'lvexport[{extras(target)}]'"]
    return " && ".join([*extra, *map(apart.remedy, aside)])


def tools(made: Iterable[Cell]) -> dict[str, str]:
    """Version of every library that takes part."""
    names = {"torch", *(name for cell in made for name in cell.converter.distributions)}
    return {name: installed(name) or "" for name in sorted(names)}


def measured_here(cell: Cell) -> list[str]:
    """What a tuner's choice depends on besides the program: runtime and processor."""
    return ["tuned", RUNTIMES[cell.target].available().name, machine.processor()]


# Those whose code decides what an artifact is and how it is judged.
ROOMS = (
    "",
    "models",
    "converters",
    "converters.quantization",
    "converters.rewrites",
    "validation",
    "validation.runtimes",
    "validation.integers",
    "validation.mil",
    "validation.mil.ops",
)


@cache
def code_digest() -> str:
    """SHA-256 over this package's own source files: another program makes other artifacts."""
    total = hashlib.sha256()
    for room in ROOMS:
        # Found and not imported, for that would load coremltools.
        found = find_spec(f"lvexport.{room}".rstrip("."))
        assert found is not None
        for path in sorted(Path(found.origin or "").parent.glob("*.py")):
            total.update(path.name.encode())
            total.update(path.read_bytes())
    return total.hexdigest()


def key(plan: Plan, cell: Cell, source_digest: str) -> str:
    """What an artifact and its verdict follow from. Where it is the same, so are they."""
    s = plan.source
    parts = {
        "lvexport": [lvexport.__version__, code_digest()],
        "source": source_digest,
        "imgsz": s.imgsz,
        "labels": s.labels,
        "preprocessing": asdict(s.preprocessing),
        "cell": [cell.target, cell.recipe, dict(cell.options)],
        "rewrites": measured_here(cell) if plan.optimize == "tune" else plan.rewrites(cell),
        "tools": tools([cell]),
        "sample": [sample.digest(), plan.samples],
    }
    if RECIPES[cell.recipe].activations is not None:
        front = plan.front if RECIPES[cell.recipe].mixed else 0
        parts["quantization"] = [plan.calibration_digest, plan.observer, asdict(plan.budget), front]
    if RECIPES[cell.recipe].fitted:
        parts["calibration"] = plan.calibration_digest
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
