"""Which rewrites each target gets where nobody asked for others: a table that the tuner learned."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

TABLE = Path(__file__).parent / "defaults.json"
OTHERS = "others"  # the row of networks that are of none of the families
INTEGERS = ("integers", "every recipe")  # programs with rounded layers, which are the same for all targets


@cache
def table() -> dict[str, Any]:
    """``rewrites``: target → recipe → family → names, in order; ``measured``: what that brought, in the same places."""
    found: dict[str, Any] = json.loads(TABLE.read_text())
    return found


def default(target: str, recipe: str, family: str | None) -> tuple[str, ...]:
    """The rewrites for a network of a family, or of none; ``INTEGERS`` stand beside the targets and their recipes."""
    rows = table()["rewrites"].get(target, {}).get(recipe, {})
    return tuple(rows.get(family, rows.get(OTHERS, ())))
