"""What there is, as rows. Loads neither torch nor a converter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lvexport.converters.contract import Converter
from lvexport.converters.recipes import ALIASES as RECIPE_ALIASES
from lvexport.converters.recipes import RECIPES
from lvexport.converters.registry import ALIASES, CONVERTERS
from lvexport.converters.rewrites.defaults import table
from lvexport.converters.rewrites.registry import REWRITES
from lvexport.models.registry import ENTRIES, demo, families

Rows = tuple[tuple[str, ...], Sequence[tuple[Any, ...]]]


def rows(what: str) -> Rows:
    """Column names and rows of ``models``, ``targets``, ``recipes`` or ``rewrites``."""
    return {"models": models, "targets": targets, "recipes": recipes, "rewrites": rewrites}[what]()


def models() -> Rows:
    smallest = {name: family for family, name in families().items()}
    found = [
        (e.name, smallest.get(e.name, ""), e.parameters, e.imgsz, e.num_classes, demo(e.name) is not None, e.source)
        for e in ENTRIES.values()
    ]
    return ("name", "alias", "parameters", "imgsz", "classes", "demo", "source"), found


def targets() -> Rows:
    alias = {target: name for name, target in ALIASES.items()}
    found = [
        (c.name, alias.get(c.name, ""), c.backend, c.suffix, ",".join(c.recipes), c.summary)
        for c in CONVERTERS.values()
    ]
    return ("name", "alias", "backend", "suffix", "recipes", "summary"), found


def recipes() -> Rows:
    alias = {recipe: name for name, recipe in RECIPE_ALIASES.items()}
    found = [
        (r.name, alias.get(r.name, ""), *(method(c, r.name) for c in CONVERTERS.values()), r.summary)
        for r in RECIPES.values()
    ]
    return ("name", "alias", *CONVERTERS, "summary"), found


def method(converter: Converter, recipe: str) -> str:
    """How a target does a recipe, or a dash where it has none."""
    found = converter.recipes.get(recipe)
    return "–" if found is None else found.method or "yes"


def rewrites() -> Rows:
    found = [
        (
            r.name,
            ",".join(f"{t} {p}" for t, rows in table()["rewrites"].items() for p in rows if _by_default(t, p, r.name)),
            r.summary,
        )
        for r in REWRITES.values()
    ]
    return ("name", "default for", "summary"), found


def _by_default(target: str, recipe: str, name: str) -> bool:
    return any(name in names for names in table()["rewrites"][target][recipe].values())
