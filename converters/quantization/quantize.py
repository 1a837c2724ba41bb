"""From a program and calibration inputs to the program with its roundings. Importing this loads torch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.utils._pytree import tree_leaves

from lvexport.converters.contract import ConversionError, Integers
from lvexport.converters.quantization import bias, equalize
from lvexport.converters.quantization.grids import Grid, spanning
from lvexport.converters.quantization.loss import loss
from lvexport.converters.quantization.narrow import narrow
from lvexport.converters.quantization.observers import OBSERVERS, Seen
from lvexport.converters.quantization.search import choose, others
from lvexport.converters.quantization.settings import Assignment, Integer, Settings
from lvexport.converters.quantization.settle import settle, transitions
from lvexport.converters.quantization.sites import Site, on_grid_of, sites, whole
from lvexport.converters.quantization.statistics import Batch, extremes, histograms
from lvexport.converters.quantization.switches import Switchboard, Switched
from lvexport.converters.rewrites.activations import spell_silu
from lvexport.converters.rewrites.graph import prune

WEIGHTS = Integers(8)
CHECKED = 4  # inputs over which the program with its roundings is compared with what was searched with
EXCEEDING = 0.1  # of a range that inputs may leave it by before that is told


@dataclass(frozen=True)
class Calibration:
    """``labels``: (n,) the class of each input, where it is known."""

    batches: Sequence[Batch]
    labels: Tensor | None = None


@dataclass(frozen=True)
class Others:
    """Other assignments that are wanted, ``more`` of them besides that of all layers to integers.

    ``take`` is given each, with its program.
    """

    more: int
    take: Callable[[Assignment, ExportedProgram], None]


@torch.no_grad()
def quantize(
    module: GraphModule,
    calibration: Calibration,
    evaluated: Sequence[Batch],
    settings: Settings,
    besides: Others | None = None,
) -> tuple[ExportedProgram, Integer, list[Switched]]:
    """Round a program's layers, changing it in place; the program, what of it integers compute, and the layers.

    ``evaluated``: some of the inputs that it will be judged with, to see whether calibration covers them. ``besides``:
    where layers are chosen by search, what else it could have chosen is made too.
    """
    exact = flat(module, calibration.batches[:CHECKED])
    equalised = equalize.equalize(module, calibration.batches) if settings.prepare else 0
    if settings.gates:
        spell_silu(module)
    prune(module)
    found, total = sites(module), whole(module, tuple(calibration.batches[0]))
    seen = observed(module, found, calibration.batches)
    exceeded = beyond(module, seen, evaluated)
    board = Switchboard(module, found, grids(found, seen, settings), WEIGHTS)
    board.turn(lambda site: True)
    if settings.prepare:
        bias.correct(board, calibration.batches)
    chosen, few, narrowed = None, calibration.batches[:CHECKED], frozenset[Site]()
    if settings.budget is not None:
        labels, ordered = calibration.labels, besides is not None and besides.more > 0
        chosen = choose(board, total, calibration.batches, labels, settings.budget, settings.kept, ordered)
        counts = [] if besides is None else others(len(chosen.floating), len(found), besides.more)
        for count in counts:
            assign(board, chosen.order[:count], calibration.batches, settings.prepare)
            wanted, settled = board.run(few), settle(copy.deepcopy(board.module))
            check(exact, wanted, settled, few)
            assert besides is not None
            besides.take(Assignment(count, *total.shares(board.on())), exported(settled, calibration))
        if chosen.floating or counts:
            assign(board, tuple(chosen.floating), calibration.batches, settings.prepare)
        if settings.narrow is not None:
            narrowed = narrow(board, calibration.batches, chosen.reference, labels, settings.budget, settings.narrow)
    on = board.on()
    wanted = board.run(few)
    settled = settle(board.module)
    check(exact, wanted, settled, few)
    integer = Integer(
        len(on),
        *total.shares(on),
        transitions(settled),
        {} if chosen is None else chosen.floating,
        equalised,
        exceeded,
        () if chosen is None else chosen.steps,
        None if chosen is None else chosen.within,
        total.shares(narrowed)[0],
    )
    return exported(settled, calibration), integer, [switched for switched in board.switched if switched.weight.on]


def assign(board: Switchboard, floating: Sequence[str], batches: Sequence[Batch], prepare: bool) -> None:
    """Turn on all layers but those of these names; with ``prepare``, biases take up what that rounds."""
    board.turn(lambda site: site.name not in floating)
    if prepare:
        bias.correct(board, batches)


def exported(module: GraphModule, calibration: Calibration) -> ExportedProgram:
    return torch.export.export(module, tuple(calibration.batches[0]))


def flat(module: GraphModule, batches: Sequence[Batch]) -> Tensor:
    """(n, features): all outputs of each input, one after the other."""
    answers = (module(*batch) for batch in batches)
    return torch.stack([torch.cat([leaf.reshape(-1) for leaf in tree_leaves(answer)]) for answer in answers])


_TOGETHER = 4.0  # of the power of noise: two of one amplitude, added up
_ALIKE = 2.0  # what chance makes of few inputs


def check(exact: Tensor, wanted: Tensor, settled: GraphModule, batches: Sequence[Batch]) -> None:
    """Raise ConversionError where the program with its roundings computes something else than was searched with.

    A bias that took up a shift is added in another order, so that numbers at half a step may fall to the other side. In
    a deep program the two then share next to none of their roundings: each is as far from ``exact``, what the program
    answered before anything was done to it, and they are at most as far from each other as both of these together.
    """
    found = flat(settled, batches)
    rounding, own = loss(exact, wanted, None).noise, loss(exact, found, None).noise
    change = loss(wanted, found, None).noise
    if change > _TOGETHER * rounding or own > _ALIKE * rounding:
        raise ConversionError(
            f"Writing roundings into the program changed what it computes, by {change:.2g} of its power where rounding "
            f"costs {rounding:.2g} and, once written, {own:.2g}. This is a bug; please report it with the model."
        )


def observed(module: GraphModule, found: Sequence[Site], batches: Sequence[Batch]) -> dict[Node, Seen]:
    """The numbers of every tensor whose grid a layer's numbers are on."""
    return histograms(module, list(dict.fromkeys(on_grids_of(found).values())), batches)


def on_grids_of(found: Sequence[Site]) -> dict[Node, Node]:
    """For every tensor that a layer is given or gives, that whose grid it is on."""
    layer_nodes = {site.node for site in found}
    return {node: on_grid_of(node, layer_nodes) for site in found for node in (site.source, site.output)}


def grids(found: Sequence[Site], seen: Mapping[Node, Seen], settings: Settings) -> dict[Node, Grid]:
    """The grid of every tensor that a layer is given or gives."""
    observe = OBSERVERS[settings.observer]
    made = {node: spanning(*observe(of, settings.bits), settings.bits) for node, of in seen.items()}
    return {node: made[whole] for node, whole in on_grids_of(found).items()}


def beyond(module: GraphModule, seen: Mapping[Node, Seen], evaluated: Sequence[Batch]) -> dict[str, float]:
    """Tensors whose numbers leave the range that calibration saw, by which share of it; the worst first."""
    found = {}
    for node, (low, high) in extremes(module, seen, evaluated).items():
        known = seen[node]
        excess = max(known.low - low, high - known.high) / max(known.high - known.low, torch.finfo(torch.float).tiny)
        if excess > EXCEEDING:
            found[node.name] = excess
    return dict(sorted(found.items(), key=lambda item: -item[1]))
