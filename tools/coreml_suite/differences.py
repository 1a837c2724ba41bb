"""How far two results of one prediction are apart, and what that comes to for each type of operation."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

HEAD = ("operation", "outputs", "identical", "max. abs. error", "max. rel. error", "lowest SQNR (dB)", "errors")


@dataclass(frozen=True)
class Difference:
    """One output of one prediction.

    Attributes:
        ops: types of the operations in its program; most programs of coremltools' tests have one besides casts.
        max_abs: largest absolute error.
        max_rel: largest error relative to the reference's element, where that is not 0.
        sqnr_db: power of the reference over that of the difference; None where both are identical.
        error: why there is nothing to compare.
    """

    ops: tuple[str, ...]
    max_abs: float = 0.0
    max_rel: float = 0.0
    sqnr_db: float | None = None
    error: str = ""


def difference(ops: tuple[str, ...], wanted: Any, found: Any) -> Difference:
    """Of two values that predict can return: arrays, pictures, labels or probabilities by label."""
    if isinstance(wanted, dict) and isinstance(found, dict) and wanted.keys() == found.keys():
        keys = list(wanted)
        wanted, found = [wanted[key] for key in keys], [found[key] for key in keys]
    try:
        first, second = np.asarray(wanted, np.float64), np.asarray(found, np.float64)
    except (TypeError, ValueError):
        return Difference(ops, error="" if wanted == found else f"{wanted!r:.60} and {found!r:.60}")
    if first.shape != second.shape:
        return Difference(ops, error=f"shapes {first.shape} and {second.shape}")
    return _of_arrays(ops, first, second)


def _of_arrays(ops: tuple[str, ...], first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> Difference:
    same = (first == second) | (np.isnan(first) & np.isnan(second))
    if same.all():
        return Difference(ops)
    comparable = np.isfinite(first) & np.isfinite(second)
    if not (same | comparable).all():
        return Difference(ops, error="one is finite where the other is not")
    first, second = first[comparable], second[comparable]
    error = np.abs(first - second)
    nonzero = first != 0
    relative = float((error[nonzero] / np.abs(first[nonzero])).max(initial=0))
    signal, noise = float(np.square(first).sum()), float(np.square(error).sum())
    return Difference(ops, float(error.max()), relative, 10 * math.log10(signal / noise) if signal else -math.inf)


def read(path: Path) -> list[Difference]:
    """Those in a file that ``compare`` wrote; none if it wrote nothing."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [_parsed(json.loads(line)) for line in lines]


def rows(found: Sequence[Difference]) -> Iterator[tuple[str, ...]]:
    """One for each type of operation, the most different first, in the columns of ``HEAD``."""
    by_op = {op: [one for one in found if op in one.ops] for op in {op for one in found for op in one.ops}}
    for op in sorted(by_op, key=lambda op: (-_errors(by_op[op]), _lowest(by_op[op]), op)):
        yield (op, *_summary(by_op[op]))


def page(found: Sequence[Difference], reference: str) -> str:
    """The table in Markdown."""
    lines = ["| " + " | ".join(row) + " |" for row in rows(found)]
    errors = sorted({f"{', '.join(one.ops)}: {one.error}" for one in found if one.error})
    return "\n".join(
        [
            f"# The interpreter beside {reference}",
            "",
            f"{len(found):,} outputs of predictions in coremltools' own tests. A program counts for every type of",
            "operation in it but casts.",
            "",
            "| " + " | ".join(HEAD) + " |",
            "|---" * len(HEAD) + "|",
            *lines,
            *(["", "## Errors", "", *(f"- {error}" for error in errors)] if errors else []),
            "",
        ]
    )


def _summary(found: Sequence[Difference]) -> tuple[str, ...]:
    compared = [one for one in found if not one.error]
    identical = sum(one.max_abs == 0 for one in compared)
    lowest = _lowest(compared)
    return (
        str(len(found)),
        str(identical),
        f"{max((one.max_abs for one in compared), default=0):.3g}",
        f"{max((one.max_rel for one in compared), default=0):.3g}",
        "" if lowest == math.inf else f"{lowest:.1f}",
        str(_errors(found)),
    )


def _lowest(found: Iterable[Difference]) -> float:
    return min((one.sqnr_db for one in found if one.sqnr_db is not None), default=math.inf)


def _errors(found: Iterable[Difference]) -> int:
    return sum(bool(one.error) for one in found)


def _parsed(document: Mapping[str, Any]) -> Difference:
    fields = {key: value for key, value in document.items() if key not in ("case", "ops")}
    return Difference(ops=tuple(document["ops"]), **fields)
