"""Which layers integers compute, so that what is lost stays within a budget. Importing this loads torch.

Each layer's share in the noise is measured with it alone rounded. The layers that cost the most for what they bring
stay in floating point, as few of them as will do. Before any layer does, the sigmoids between layers do; they come
back to integers where the budget is kept with them too, once those layers are out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from lvexport.converters.contract import Budget
from lvexport.converters.quantization.loss import loss
from lvexport.converters.quantization.settings import Step
from lvexport.converters.quantization.sites import Site, Whole
from lvexport.converters.quantization.statistics import Batch
from lvexport.converters.quantization.switches import Switchboard

PROBES = 16  # inputs that each layer's share in the noise is measured on


@dataclass(frozen=True)
class Choice:
    """``floating``: layers left in floating point → the noise that each alone would add, the dearest first.

    ``steps``: all that was measured, by how many were left. ``within``: whether the budget is kept. ``order``: all
    layers, in the order in which they are left in floating point; empty where nobody had to know it. ``reference``:
    what the board gave for all inputs without any rounding.
    """

    floating: dict[str, float]
    steps: tuple[Step, ...]
    within: bool
    reference: Tensor
    order: tuple[str, ...] = ()


def sensitivities(board: Switchboard, batches: Sequence[Batch], reference: Tensor) -> dict[Site, float]:
    """The noise at the output, over the signal, with one layer alone rounded."""
    probes, first = batches[:PROBES], reference[:PROBES]
    found = {}
    for switched in board.switched:
        board.turn(switched.site.__eq__)
        found[switched.site] = loss(first, board.run(probes), None).noise
    return found


def choose(
    board: Switchboard,
    whole: Whole,
    batches: Sequence[Batch],
    labels: Tensor | None,
    budget: Budget,
    least: int = 0,
    ordered: bool = False,
) -> Choice:
    """The fewest layers in floating point, ``least`` of them or more, that keep the budget; the board is set so.

    ``ordered``: find the order of the layers also where the budget is kept without it.
    """
    board.turn(lambda site: False)
    reference = board.run(batches)
    ranked: list[tuple[Site, float]] = []
    steps: dict[int, Step] = {}

    def good(count: int) -> bool:
        if count not in steps:
            floating = {site for site, _ in ranked[:count]}
            board.turn(lambda site: site not in floating)
            found = loss(reference, board.run(batches), labels)
            steps[count] = Step(count, *whole.shares(board.on()), found)
        return steps[count].loss.within(budget)

    ungated = bool(board.gates) and (least > 0 or not good(0))
    if ungated:  # sigmoids in floating point cost less than any layer would
        board.gated = False
        steps.clear()
    count = 0
    if least or ordered or not good(0):
        noise = sensitivities(board, batches, reference)
        ranked = sorted(noise.items(), key=lambda item: -item[1] / max(sum(whole.shares([item[0]])), 1e-9))
        count = fewest(good, min(least, len(ranked)), len(ranked))
    floating = {site.name: noise for site, noise in ranked[:count]}
    if ungated and count > least and good(count):
        board.gated = True
        board.turn(lambda site: site.name not in floating)
        board.gated = loss(reference, board.run(batches), labels).within(budget)
    board.turn(lambda site: site.name not in floating)
    order = tuple(site.name for site, _ in ranked)
    return Choice(floating, tuple(steps[k] for k in sorted(steps)), good(count), reference, order)


def others(chosen: int, layers: int, more: int) -> list[int]:
    """How many layers other assignments leave in floating point, by which the chosen one can be seen in proportion.

    None, where any were left; and ``more`` besides: half as many as were chosen, twice as many, a quarter, four times
    as many and so on, or 1, 2, 4, … where none were.
    """
    found = dict.fromkeys([0] if chosen else [])
    factor = 1
    while len(found) < more + bool(chosen) and factor < 2 * layers:
        pair = (chosen // (2 * factor), chosen * 2 * factor) if chosen else (factor,)
        found |= dict.fromkeys(count for count in pair if 0 < count < layers)
        factor *= 2
    return list(found)[: more + bool(chosen)]


def fewest(good: Callable[[int], bool], least: int, most: int) -> int:
    """The smallest count from ``least`` to ``most`` that is good, where all above are; ``most`` if none is.

    Counts are doubled until one is good, and the gap to the last bad one halved.
    """
    if good(least):
        return least
    bad, count = least, min(max(2 * least, 1), most)
    while count < most and not good(count):
        bad, count = count, min(2 * count, most)
    while count - bad > 1:
        middle = (bad + count) // 2
        if good(middle):
            count = middle
        else:
            bad = middle
    return count
