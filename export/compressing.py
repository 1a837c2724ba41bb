"""The original with its weights rounded, as recipes with integer weights ask for it; made once for all targets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lvexport.converters.contract import Integers, rounds_activations
from lvexport.converters.quantization.settings import Assignment, Integer
from lvexport.converters.recipes import RECIPES
from lvexport.converters.registry import CONVERTERS
from lvexport.feeding import load_outputs
from lvexport.inputs import Sample
from lvexport.jobs import SQNR, CompressJob, Inputs, ReferenceJob, SimulateJob
from lvexport.processes import Workshop
from lvexport.source import Source
from lvexport.validation.contract import Array


@dataclass(frozen=True)
class Program:
    """The captured program, and the source as capturing completed it."""

    program: Path
    source: Source


@dataclass(frozen=True)
class Compressed:
    """The program with roundings, and what PyTorch makes of the sample with it. ``name`` tells it from others.

    ``dynamic``: what it makes with activations rounded as they come as well, where an artifact does so. ``integer``:
    which part of it integers compute, where activations are rounded to fixed grids. ``layers``: the file of what its
    layers are made of. ``sqnr_db``: what rewriting it for inference before left. ``others``: programs with other
    assignments of the layers, for the front.
    """

    program: Path
    references: list[Array]
    name: str
    dynamic: list[Array] | None = None
    integer: Integer | None = None
    layers: Path | None = None
    sqnr_db: float | None = None
    others: tuple[tuple[Assignment, Path], ...] = ()


@dataclass(frozen=True)
class Rounding:
    """What weights are rounded to, after which rewrites. ``name``: that of the network with such weights.

    ``calibration``: what tells the inputs that they are fitted over from others; None where they are not fitted.
    """

    recipe: str
    weights: Integers
    rewrites: tuple[str, ...]
    calibration: str | None

    @property
    def name(self) -> str:
        parts = [asdict(self.weights), self.rewrites, self.calibration]
        return f"{self.recipe}-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]}"


def compress(
    shop: Workshop, original: Program, of: Rounding, calibration: Inputs | None, sampled: Sample, dynamic: bool
) -> Compressed:
    """Round the weights of a captured program, and run it over the sample. ``calibration``: where they are fitted."""
    weights, name, source = of.weights, of.name, original.source
    rounded, out = shop.folder / f"program-{name}.pt2", shop.folder / f"reference-{name}.safetensors"
    layers = shop.folder / f"layers-{name}.safetensors"
    job = CompressJob(original.program, of.rewrites, weights, calibration, rounded, layers)
    change = SQNR.validate_python(shop.do(job))
    shop.do(ReferenceJob(replace(source, kind="program", spec=str(rounded)), sampled.inputs, out))
    made = Compressed(rounded, load_outputs(out), name, layers=layers, sqnr_db=change)
    if not dynamic:
        return made
    simulated = shop.folder / f"reference-{name}-dynamic.safetensors"
    shop.do(SimulateJob(rounded, weights, sampled.inputs, simulated))
    return replace(made, dynamic=load_outputs(simulated))


def rounding(target: str, recipe: str, rewrites: tuple[str, ...], calibration: str) -> Rounding | None:
    """How a target's recipe rounds weights, and nothing else; None where it does not.

    ``calibration``: what tells the inputs from others that weights are fitted over, where they are.
    """
    if calibrated(recipe) or integers(recipe) is None:
        return None
    found = CONVERTERS[target].recipes.get(recipe) if target in CONVERTERS else None
    weights = integers(recipe) if found is None else found.weights
    assert weights is not None
    return Rounding(recipe, weights, rewrites, calibration if fitted(recipe) else None)


def simulation(network: str) -> str:
    """The name under which outputs with rounded activations stand beside those of a network."""
    return f"{network}-dynamic"


def dynamic(target: str, recipe: str, options: Mapping[str, str]) -> bool:
    """Whether an artifact rounds activations to 8 bits as they come."""
    found = CONVERTERS[target].recipes.get(recipe) if target in CONVERTERS else None
    return found is not None and rounds_activations(found, options)


def calibrated(recipe: str) -> bool:
    return recipe in RECIPES and RECIPES[recipe].activations is not None


def fitted(recipe: str) -> bool:
    return recipe in RECIPES and RECIPES[recipe].fitted


def integers(recipe: str) -> Integers | None:
    return RECIPES[recipe].weights if recipe in RECIPES else None
