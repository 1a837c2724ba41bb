"""Weights of 4 bits, as many as a budget allows. Importing this loads torch.

All layers that may have them are tried at once, each fitted to what those before it give (GPTQ). Where that loses too
much, weights that cost the most for what they save keep their 8 bits.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lvexport.converters.compression import SMALLEST, requantize
from lvexport.converters.contract import Budget, Integers
from lvexport.converters.gptq import Values, aimed, fitted, moments, shift
from lvexport.converters.quantization.loss import loss
from lvexport.converters.quantization.search import PROBES, fewest
from lvexport.converters.quantization.sites import Site
from lvexport.converters.quantization.statistics import Batch
from lvexport.converters.quantization.switches import Rounding, Shift, Switchboard, Weight
from lvexport.converters.rewrites.graph import arguments

FORM = Integers(4, half=True)  # a scale for each output channel, as layers that integers compute have it
MARGIN = 0.5  # of the budget that may be used here: the verdict is over other and more inputs
FITTED_WITH = 64  # inputs, all of them in memory at once


def narrow(board: Switchboard, batches: Sequence[Batch], labels: Tensor | None, budget: Budget) -> frozenset[Site]:
    """Let as many layers that are on as keep the budget have weights of 4 bits; these layers. Corrects biases."""
    on, able = board.on(), candidates(board)
    if not able:
        return frozenset()
    board.turn(lambda site: False)
    reference = board.run(batches)
    board.turn(on.__contains__)
    allowed = replace(budget, drop=budget.drop * MARGIN, retrieval=1 - (1 - budget.retrieval) * MARGIN)
    few, ranked = batches[:FITTED_WITH], able

    def good(wide: int) -> bool:
        fit(board, few, ranked[wide:])
        return loss(reference, board.run(batches), labels).within(allowed)

    if good(0):
        return frozenset(able)
    ranked = dearest(board, able, batches[:PROBES])
    count = fewest(good, 1, len(able))
    fit(board, few, ranked[count:])
    return frozenset(ranked[count:])


def candidates(board: Switchboard) -> list[Site]:
    """The layers that are on and whose weights may be narrowed: not those of groups, which have few for each scale."""
    on = (switched.site for switched in board.switched if switched.weight.on)
    return [site for site in on if site.weights > SMALLEST and arguments(site.node).get("groups", 1) == 1]


def dearest(board: Switchboard, able: Sequence[Site], probes: Sequence[Batch]) -> list[Site]:
    """Layers by the noise that each narrowed weight alone adds, for its size; the board has all of them narrowed."""
    narrowed = {s.site: s.weight.quantized for s in board.switched if s.site in able}
    fit(board, probes, ())
    reference, found = board.run(probes), {}
    for switched in board.switched:
        if switched.site in narrowed:
            switched.weight.keep(narrowed[switched.site])
            found[switched.site] = loss(reference, board.run(probes), None).noise / switched.site.weights
            switched.weight.widen()
    return sorted(able, key=lambda site: -found[site])


@torch.no_grad()
def fit(board: Switchboard, batches: Sequence[Batch], narrowed: Collection[Site]) -> None:
    """Give some layers weights of 4 bits and all others that are on 8, in the order of the program.

    Each is fitted to what those before it give by then, and biases take up what is off in the mean.
    """
    exact, on = without_rounding(board), {s.site.node: s for s in board.switched if s.weight.on}
    own, changed = Values(exact, batches), Values(board.module, batches)
    for node, rounded in zip(exact.graph.nodes, board.module.graph.nodes, strict=True):
        own.take(node)
        switched = on.get(rounded)
        if switched is not None:
            switched.weight.widen()
            if switched.site in narrowed:
                value = switched.weight.exact.double()
                total, lost = moments(rounded, value.shape, own.of[node.args[0]], changed.of[rounded.args[0]])
                switched.weight.keep(requantize(fitted(aimed(value, total, lost), total, FORM), FORM))
            changed.of[rounded.args[1]] = [switched.weight.rounded] * len(batches)
        changed.take(rounded)
        if switched is not None:
            switched.shift.by = shift(rounded, own.of[node], changed.of[rounded]).float()
        own.forget(node)
        changed.forget(rounded)


def without_rounding(board: Switchboard) -> torch.fx.GraphModule:
    """A copy of a board's program, all switches off."""
    exact = copy.deepcopy(board.module)
    for switch in exact.modules():
        if isinstance(switch, Rounding | Weight | Shift):
            switch.on = False
    return exact
