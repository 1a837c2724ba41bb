"""Weights of 4 bits, as many as a budget allows. Importing this loads torch.

All layers that may have them are tried at once, each fitted to what those before it give (GPTQ). Where that loses too
much, weights that cost the most for what they save keep their 8 bits.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lvexport.converters.compression import SMALLEST, requantize
from lvexport.converters.contract import Budget, Integers
from lvexport.converters.gptq import aimed, fitted, moments
from lvexport.converters.quantization.bias import layer_by_layer
from lvexport.converters.quantization.loss import loss
from lvexport.converters.quantization.search import PROBES, fewest
from lvexport.converters.quantization.sites import Site
from lvexport.converters.quantization.statistics import Batch
from lvexport.converters.quantization.switches import Switchboard
from lvexport.converters.rewrites.graph import arguments

MARGIN = 0.5  # of the budget that may be used here: the verdict is over other and more inputs


def narrow(
    board: Switchboard,
    batches: Sequence[Batch],
    reference: Tensor,
    labels: Tensor | None,
    budget: Budget,
    form: Integers,
) -> frozenset[Site]:
    """Let as many layers that are on as keep the budget have weights of 4 bits; these layers. Corrects biases.

    ``reference``: what the board gives for the batches without any rounding. ``form``: of the weights.
    """
    able = candidates(board)
    if not able:
        return frozenset()
    allowed = replace(budget, drop=budget.drop * MARGIN, retrieval=1 - (1 - budget.retrieval) * MARGIN)
    ranked = able

    def good(wide: int) -> bool:
        fit(board, batches, ranked[wide:], form)
        return loss(reference, board.run(batches), labels).within(allowed)

    if good(0):
        return frozenset(able)
    ranked = dearest(board, able, batches[:PROBES], form)
    count = fewest(good, 1, len(able))
    fit(board, batches, ranked[count:], form)
    return frozenset(ranked[count:])


def candidates(board: Switchboard) -> list[Site]:
    """The layers that are on and whose weights may be narrowed: not those of groups, which have few for each scale."""
    on = (switched.site for switched in board.switched if switched.weight.on)
    return [site for site in on if site.weights > SMALLEST and arguments(site.node).get("groups", 1) == 1]


def dearest(board: Switchboard, able: Sequence[Site], probes: Sequence[Batch], form: Integers) -> list[Site]:
    """Layers by the noise that each narrowed weight alone adds, for its size; the board has all of them narrowed."""
    narrowed = {s.site: s.weight.quantized for s in board.switched if s.site in able}
    fit(board, probes, (), form)
    reference, found = board.run(probes), {}
    for switched in board.switched:
        if switched.site in narrowed:
            switched.weight.keep(narrowed[switched.site])
            found[switched.site] = loss(reference, board.run(probes), None).noise / switched.site.weights
            switched.weight.widen()
    return sorted(able, key=lambda site: -found[site])


@torch.no_grad()
def fit(board: Switchboard, batches: Sequence[Batch], narrowed: Collection[Site], form: Integers) -> None:
    """Give some layers weights of 4 bits and all others that are on 8, in the order of the program.

    Each is fitted to what those before it give by then, and biases take up what is off in the mean.
    """
    for turn in layer_by_layer(board, batches):
        site, weight = turn.switched.site, turn.switched.weight
        weight.widen()
        if site in narrowed:
            value = weight.exact.double()
            total, lost = moments(site.node, value.shape, turn.own, turn.given)
            weight.keep(requantize(fitted(aimed(value, total, lost), total, form), form))
