"""How a program is to be rounded, and what came of it. Plain data, so that saying it does not load torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from lvexport.converters.contract import Budget, Integers

OBSERVER_NAMES = ("percentile", "mse", "min-max", "entropy")  # the first is the default


@dataclass(frozen=True)
class Settings:
    """``bits`` of activations. ``observer``: how ranges follow from what calibration saw. ``gates``: SiLU between
    layers is rounded so that integers can compute it.

    ``prepare``: equalise channels and correct biases before. ``budget``: None to round every layer; else as many as
    keep it, and ``kept`` of them at least are left as they are. ``narrow``: what as many weights as then keep
    the budget are rounded to; None for none.
    """

    bits: int
    observer: str = OBSERVER_NAMES[0]
    prepare: bool = False
    budget: Budget | None = None
    kept: int = 0
    gates: bool = False
    narrow: Integers | None = None


@dataclass(frozen=True)
class Loss:
    """What rounding cost over ``samples`` inputs. ``noise``: its power at the outputs, over the signal's.

    ``drop``: of accuracy, as a share; None where classes are not known. ``retrieval``: agreement that is left.
    """

    samples: int
    noise: float
    drop: float | None
    retrieval: float

    def within(self, budget: Budget) -> bool:
        """Whether the budget is kept.

        Among more inputs, an output is nearest to another's more often, in proportion to their number.
        """
        missed = (1 - self.retrieval) * max(1.0, budget.among / self.samples)
        return missed <= 1 - budget.retrieval and (self.drop is None or self.drop <= budget.drop)


@dataclass(frozen=True)
class Step:
    """One choice that the search measured: so many layers left in floating point, and what the others are and cost."""

    kept: int
    weights: float
    macs: float
    loss: Loss


@dataclass(frozen=True)
class Assignment:
    """So many layers left in floating point; ``weights``, ``macs``: shares of the whole that integers hold, compute."""

    kept: int
    weights: float
    macs: float


@dataclass(frozen=True)
class Integer:
    """Which part of a program integers compute.

    ``weights``, ``macs``: shares of the numbers that it holds and of its multiply-accumulates. ``floating``: layers
    that were left in floating point → the noise, over the signal, that rounding each alone would add. ``transitions``:
    tensors that go from floating point to integers, and back. ``narrow``: share of the numbers that are of 4 bits.
    ``equalised``: classes of channels that were scaled.
    ``exceeded``: tensors whose numbers left the range that calibration saw → by how much of it. ``steps``: of the
    search. ``within``: whether the search kept its budget; None where there was none.
    """

    layers: int
    weights: float
    macs: float
    transitions: tuple[int, int]
    floating: dict[str, float] = field(default_factory=dict)
    equalised: int = 0
    exceeded: dict[str, float] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    within: bool | None = None
    narrow: float = 0.0
