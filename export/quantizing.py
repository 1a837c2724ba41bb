"""The original with layers that integers compute, made once for all targets that take the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np

from lvexport.calibration import Calibration
from lvexport.compressing import Compressed, Program, rounding
from lvexport.converters.contract import Budget
from lvexport.converters.quantization.settings import Loss, Settings
from lvexport.converters.recipes import RECIPES
from lvexport.feeding import load_outputs
from lvexport.inputs import Sample
from lvexport.jobs import ROUNDED, QuantizeJob, ReferenceJob
from lvexport.plan import Cell, Plan
from lvexport.processes import Workshop
from lvexport.validation import metrics
from lvexport.validation.contract import Array


def settings_of(plan: Plan, cell: Cell, kept: int = 0) -> Settings:
    """How the layers of a cell's program are to be rounded."""
    recipe = cell.converter.recipes[cell.recipe]
    assert recipe.activations is not None
    budget = budget_of(plan) if recipe.mixed else None
    return Settings(recipe.activations, plan.observer, recipe.mixed, budget, kept, recipe.gates, recipe.narrow)


def budget_of(plan: Plan) -> Budget:
    """What rounding may cost, among as many inputs as the verdict is taken over."""
    return replace(plan.budget, among=plan.count(plan.source.imgsz))


def network_of(plan: Plan, cell: Cell, kept: int = 0) -> str | None:
    """The name of the rounded network that a cell is made from; None for a cell in floating point."""
    recipe = RECIPES[cell.recipe]
    if recipe.activations is None:
        found = rounding(cell.target, cell.recipe, plan.rewrites(cell), plan.calibration_digest)
        return None if found is None else found.name
    parts = [plan.rewrites(cell), asdict(settings_of(plan, cell, kept)), plan.calibration_digest]
    return f"{cell.recipe}-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]}"


def quantize(
    shop: Workshop, original: Program, plan: Plan, cell: Cell, calibration: Calibration, sampled: Sample, kept: int = 0
) -> Compressed:
    """Round the layers of the captured program, and run it over the sample.

    ``kept``: so many layers at least stay in floating point, where the recipe leaves that open. The first search also
    leaves the programs that it is seen beside on the front.
    """
    name = network_of(plan, cell, kept)
    assert name is not None
    rounded, out = shop.folder / f"program-{name}.pt2", shop.folder / f"reference-{name}.safetensors"
    settings = settings_of(plan, cell, kept)
    layers = shop.folder / f"layers-{name}.safetensors"
    given, labels = calibration.inputs, calibration.labels
    others = plan.front if RECIPES[cell.recipe].mixed and not kept else None
    rewrites = plan.rewrites(cell)
    job = QuantizeJob(original.program, rewrites, settings, given, labels, sampled.inputs, rounded, layers, others)
    found = ROUNDED.validate_python(shop.do(job))
    shop.do(ReferenceJob(replace(original.source, kind="program", spec=str(rounded)), sampled.inputs, out))
    return Compressed(rounded, load_outputs(out), name, None, found.integer, layers, found.sqnr_db, found.others)


def too_dear(references: Sequence[Array], outputs: Sequence[Array], labels: Sequence[int] | None, plan: Plan) -> bool:
    """Whether an artifact loses more than the budget, over the inputs that the search was made with."""
    kept = min(metrics.retrieval_agreement(r, m) for r, m in zip(references, outputs, strict=True))
    drop = None
    if labels is not None:
        before, after = (metrics.accuracy(of[0], np.asarray(labels)) for of in (references, outputs))
        drop = before - after
    return not Loss(len(references[0]), 0.0, drop, kept).within(budget_of(plan))
