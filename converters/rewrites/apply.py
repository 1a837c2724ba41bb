"""A program rewritten, and proved to compute what it did. Importing this loads torch."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import GraphModule
from torch.utils._pytree import tree_leaves

from lvexport.converters.contract import Captured, ConversionError
from lvexport.converters.derived import examples
from lvexport.converters.rewrites.registry import REWRITES

# A rewritten program in single precision differs from the original by rounding alone, which leaves 116 to 134 dB in the
# registry's networks; a wrong rewrite leaves less than 60.
THRESHOLD_DB = 110.0
# A network that magnifies its own rounding beyond that may move by as much again.
ROOM_DB = 6.0
SEED = 0


@dataclass(frozen=True)
class Rewritten(Captured):
    """A captured program in another form, which is in memory alone.

    ``sqnr_db``: the original's outputs over their change, on one random input in single precision.
    """

    graph: GraphModule | None = None
    arguments: tuple[Tensor, ...] = ()
    sqnr_db: float = math.inf

    def program(self) -> ExportedProgram:
        module, arguments = self.module()
        with torch.no_grad():
            return torch.export.export(module, arguments)

    def module(self) -> tuple[GraphModule, tuple[Tensor, ...]]:
        assert self.graph is not None
        return self.graph, self.arguments


def rewrite(captured: Captured, names: Iterable[str]) -> Rewritten:
    """The program after the rewrites of these names, each on what the one before left.

    Raises ConversionError where that changed what the program computes.
    """
    program = captured.program()
    module, change = rewritten(program, names)
    own = {field.name: getattr(captured, field.name) for field in fields(Captured)}
    return Rewritten(**own, graph=module, arguments=examples(program), sqnr_db=change)


@torch.no_grad()
def rewritten(program: ExportedProgram, names: Iterable[str]) -> tuple[GraphModule, float]:
    """The program as a module after the rewrites, and what they left of its outputs in dB."""
    module, chosen = program.module(), list(names)
    assert isinstance(module, GraphModule)
    inputs = random_inputs(program)
    before = outputs(module, inputs)
    for name in chosen:
        REWRITES[name].apply(module)
        module.recompile()
    after = outputs(module, inputs)
    change = sqnr(before, after)
    if not change >= THRESHOLD_DB and not is_rounding(program, inputs, before, after):
        raise ConversionError(
            f"Rewriting for inference ({', '.join(chosen)}) moved the outputs: {change:.1f} dB are left of the "
            f"{THRESHOLD_DB:g} that rounding would leave. This is a bug; --optimize none goes without."
        )
    return module, change


def is_rounding(program: ExportedProgram, inputs: list[Tensor], before: list[Tensor], after: list[Tensor]) -> bool:
    """Whether the outputs after the rewrites are about as near to the program in double precision as those before."""
    try:
        wide = copy.deepcopy(program.module()).double()
        assert isinstance(wide, GraphModule)
        exact = outputs(wide, [x.double() if x.is_floating_point() else x for x in inputs])
    except RuntimeError:  # it mixes precisions itself
        return False
    return sqnr(exact, after) >= min(THRESHOLD_DB, sqnr(exact, before) - ROOM_DB)


def random_inputs(program: ExportedProgram) -> list[Tensor]:
    """Seeded inputs like those that the program was captured with: normal numbers, and whole numbers as they were."""
    generator, given = torch.Generator().manual_seed(SEED), examples(program)
    return [torch.randn(a.shape, generator=generator).to(a.dtype) if a.is_floating_point() else a for a in given]


def outputs(module: GraphModule, inputs: list[Tensor]) -> list[Tensor]:
    return [leaf.double() for leaf in tree_leaves(module(*inputs)) if isinstance(leaf, Tensor)]


def sqnr(before: list[Tensor], after: list[Tensor]) -> float:
    """Signal over change in dB, the worst of all outputs."""
    return min(map(_sqnr, before, after), default=math.inf)


def _sqnr(before: Tensor, after: Tensor) -> float:
    change = (after - before).norm().item()
    if change == 0:
        return math.inf
    return 20 * math.log10(before.norm().item() / change) if math.isfinite(change) else -math.inf
