"""The original with its weights rounded, as recipes with integer weights ask for it; made once for all targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lvexport.converters.contract import Integers, rounds_activations
from lvexport.converters.quantization.settings import Assignment, Integer
from lvexport.converters.recipes import RECIPES
from lvexport.converters.registry import CONVERTERS
from lvexport.feeding import load_outputs
from lvexport.inputs import Sample
from lvexport.jobs import CompressJob, ReferenceJob, SimulateJob
from lvexport.processes import Workshop
from lvexport.source import Source
from lvexport.validation.contract import Array


@dataclass(frozen=True)
class Compressed:
    """The program with roundings, and what PyTorch makes of the sample with it. ``name`` tells it from others.

    ``dynamic``: what it makes with activations rounded as they come as well, where an artifact does so. ``integer``:
    which part of it integers compute, where activations are rounded to fixed grids; ``layers``: the file of what these
    are made of. ``sqnr_db``: what rewriting it for inference before left. ``others``: programs with other assignments
    of the layers, for the front.
    """

    program: Path
    references: list[Array]
    name: str
    dynamic: list[Array] | None = None
    integer: Integer | None = None
    layers: Path | None = None
    sqnr_db: float | None = None
    others: tuple[tuple[Assignment, Path], ...] = ()


def compress(shop: Workshop, source: Source, program: Path, of: Rounding, sampled: Sample, dynamic: bool) -> Compressed:
    """Round the weights of a captured program, and run it over the sample."""
    weights, name = of.weights, of.name
    rounded, out = shop.folder / f"program-{name}.pt2", shop.folder / f"reference-{name}.safetensors"
    shop.do(CompressJob(program, weights, rounded))
    shop.do(ReferenceJob(replace(source, kind="program", spec=str(rounded)), sampled.inputs, out))
    references = load_outputs(out)
    if not dynamic:
        return Compressed(rounded, references, name)
    simulated = shop.folder / f"reference-{name}-dynamic.safetensors"
    shop.do(SimulateJob(rounded, weights, sampled.inputs, simulated))
    return Compressed(rounded, references, name, load_outputs(simulated))


@dataclass(frozen=True)
class Rounding:
    """What weights are rounded to. ``name``: that of the network with such weights."""

    name: str
    weights: Integers


def rounding(target: str, recipe: str) -> Rounding | None:
    """How a target's recipe rounds weights, and nothing else; None where it does not.

    The network has the recipe's name where the target rounds as the recipe does everywhere, else also the target's.
    """
    if calibrated(recipe) or integers(recipe) is None:
        return None
    found = CONVERTERS[target].recipes.get(recipe) if target in CONVERTERS else None
    weights = integers(recipe) if found is None else found.weights
    assert weights is not None
    return Rounding(recipe if weights == integers(recipe) else f"{recipe}-{target.replace(':', '-')}", weights)


def simulation(network: str) -> str:
    """The name under which outputs with rounded activations stand beside those of a network."""
    return f"{network}-dynamic"


def dynamic(target: str, recipe: str, options: Mapping[str, str]) -> bool:
    """Whether an artifact rounds activations to 8 bits as they come."""
    found = CONVERTERS[target].recipes.get(recipe) if target in CONVERTERS else None
    return found is not None and rounds_activations(found, options)


def calibrated(recipe: str) -> bool:
    return recipe in RECIPES and RECIPES[recipe].activations is not None


def integers(recipe: str) -> Integers | None:
    return RECIPES[recipe].weights if recipe in RECIPES else None
