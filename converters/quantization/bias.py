"""Biases that take up what rounding moves on average. Importing this loads torch."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule

from lvexport.converters.gptq import Values, shift
from lvexport.converters.quantization.statistics import Batch
from lvexport.converters.quantization.switches import Rounding, Shift, Switchboard, Switched, Weight

INPUTS = 64  # over which means are taken, all of them in memory at once


@dataclass(frozen=True)
class Turn:
    """A layer whose turn it is. ``own``: what it is given without any rounding, ``given``: by those before it now."""

    switched: Switched
    own: Sequence[Tensor]
    given: Sequence[Tensor]


def correct(board: Switchboard, batches: Sequence[Batch]) -> None:
    """Make every layer that is on give, channel by channel, what it gives without any rounding in the mean.

    Nagel et al., Data-free quantization through weight equalization and bias correction (2019), section 4.2, measured
    on calibration inputs: in the order of the program, each layer on what the corrected ones before it give.
    """
    for _ in layer_by_layer(board, batches):
        pass


@torch.no_grad()
def layer_by_layer(board: Switchboard, batches: Sequence[Batch]) -> Iterator[Turn]:
    """Each layer that is on, whose weight may be rounded anew then; behind that, its bias is corrected."""
    exact, on, few = without_rounding(board), {s.site.node: s for s in board.switched if s.weight.on}, batches[:INPUTS]
    own, changed = Values(exact, few), Values(board.module, few)
    for node, rounded in zip(exact.graph.nodes, board.module.graph.nodes, strict=True):
        own.take(node)
        switched = on.get(rounded)
        if switched is not None:
            yield Turn(switched, own.of[node.args[0]], changed.of[rounded.args[0]])
            changed.of[rounded.args[1]] = [switched.weight.rounded] * len(few)
        changed.take(rounded)
        if switched is not None:
            switched.shift.by = shift(rounded, own.of[node], changed.of[rounded]).to(switched.weight.exact.dtype)
        own.forget(node)
        changed.forget(rounded)


def without_rounding(board: Switchboard) -> GraphModule:
    """A copy of a board's program, all switches off."""
    exact = copy.deepcopy(board.module)
    for switch in exact.modules():
        if isinstance(switch, Rounding | Weight | Shift):
            switch.on = False
    return exact
