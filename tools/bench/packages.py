"""Core ML packages, ours and the minimal script's, counted: what nothing here can time.

``peak_bytes``: of the tensors that are alive at once when operations are run in the order in which they stand, each
from the operation that makes it to the last one that takes it. Constants are not among them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

# One network of each family, the smallest.
NETWORKS = ("mobilevit_xxs", "mobilevitv2_050", "mobile_former_26m", "efficientformer_nano", "efficientformerv2_s0")
RECIPES = ("fp32", "fp16")
MOVING = frozenset(
    {"concat", "expand_dims", "gather", "reshape", "slice_by_index", "slice_by_size", "split", "squeeze", "stack"}
    | {"tile", "transpose"}
)
CONSTANTS = ("const", "constexpr_")


def measure(make: Callable[[str, str], tuple[Path, Path]]) -> dict[str, Any]:
    """Counts of both packages of each network and recipe; ``make`` gives the minimal script's and ours."""
    found = {}
    for recipe, name in product(RECIPES, NETWORKS):
        minimal, own = make(name, recipe)
        found[f"{name} {recipe}"] = {"minimal": counts(minimal), "ours": counts(own)}
    return found


def counts(package: Path) -> dict[str, int]:
    """Operators, those that only move numbers, casts, and the most bytes that are alive at once."""
    import coremltools as ct

    (function,) = ct.utils.load_spec(str(package)).mlProgram.functions.values()
    (block,) = function.block_specializations.values()
    kinds = [op.type for op in block.operations if not op.type.startswith(CONSTANTS)]
    return {
        "operators": len(kinds),
        "moving": sum(kind in MOVING for kind in kinds),
        "casts": kinds.count("cast"),
        "peak_bytes": peak(function, block),
    }


def peak(function: Any, block: Any) -> int:
    """The most bytes that are alive at once."""
    bits = widths()
    sizes = {value.name: size(value.type, bits) for value in function.inputs}
    operations = [op for op in block.operations if not op.type.startswith(CONSTANTS)]
    last = last_uses(block, operations)
    alive = {name: size for name, size in sizes.items() if name in last}
    most = sum(alive.values())
    for place, op in enumerate(operations):
        alive |= {value.name: size(value.type, bits) for value in op.outputs}
        most = max(most, sum(alive.values()))
        alive = {name: size for name, size in alive.items() if last.get(name, -1) > place}
    return most


def last_uses(block: Any, operations: list[Any]) -> dict[str, int]:
    """By name of a tensor, the place of the last operation that takes it."""
    last = {
        argument.name: place
        for place, op in enumerate(operations)
        for given in op.inputs.values()
        for argument in given.arguments
        if argument.WhichOneof("binding") == "name"
    }
    return last | dict.fromkeys(block.outputs, len(operations))


def widths() -> Mapping[int, int]:
    """Bits by the number of a type in the specification."""
    from coremltools.proto import MIL_pb2

    return {
        number: int("".join(filter(str.isdigit, name)) or 8)
        for name, number in MIL_pb2.DataType.items()  # FLOAT16, INT32, UINT8, BOOL, …
    }


def size(kind: Any, bits: Mapping[int, int]) -> int:
    """Bytes of a tensor of this type."""
    total = bits[kind.tensorType.dataType]
    for dimension in kind.tensorType.dimensions:
        total *= dimension.constant.size
    return total // 8
