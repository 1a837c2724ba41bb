"""Weights as places in a palette of their tensor: which numbers it has. Importing this loads torch.

What is rounded once is found again by its numbers, of which there are no more than a palette has.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lvexport.converters.contract import Integers

_BINS = 1024  # in which the numbers of a weight are counted, to choose where the palette begins
_ROUNDS = 40  # of moving its numbers to the means of what is nearest to them


@dataclass(frozen=True)
class Palettized:
    """``data`` (O, I, …) uint8 are places in the ``palette`` (2 ** bits,), whose numbers grow."""

    data: Tensor
    palette: Tensor
    bits: int

    def restored(self) -> Tensor:
        """The weight in single precision."""
        return self.palette[self.data.long()]


def palettize(weight: Tensor, integers: Integers) -> Palettized:
    """Round a weight, each number to the nearest of the palette that leaves the least squared error."""
    return _placed(weight, nearest_palette(weight, torch.ones_like(weight), integers), integers.bits)


def recovered_palette(weight: Tensor, integers: Integers) -> Palettized | None:
    """The palette and places that a weight was rounded to; None where it has more numbers than a palette."""
    numbers = torch.unique(weight.detach())
    size = 2**integers.bits
    if len(numbers) > size:
        return None
    padded = torch.cat([numbers, numbers[-1:].expand(size - len(numbers))])
    return _placed(weight, padded, integers.bits)


def nearest_palette(weight: Tensor, counts: Tensor, integers: Integers) -> Tensor:
    """(2 ** bits,) the numbers that leave a weight the least squared error, each times how much it ``counts``.

    They are means of what is nearest to them (Lloyd, 1982), from where a fine quantizer of that many levels has its
    own: as dense as the cube root of the numbers' density (Panter and Dite, 1951). Rounded to half precision.
    """
    value, order = weight.detach().double().reshape(-1).sort()
    count = counts.expand_as(weight).double().reshape(-1)[order]
    heights = torch.histc(value.float(), _BINS).double().pow(1 / 3).cumsum(0)
    wanted = (torch.arange(2**integers.bits) + 0.5) / 2**integers.bits * heights[-1]
    spread = value[-1] - value[0]
    palette = value[0] + (torch.searchsorted(heights, wanted) + 0.5) / _BINS * spread
    mass, moment = (torch.cat([torch.zeros(1).double(), n.cumsum(0)]) for n in (count, count * value))
    for _ in range(_ROUNDS):
        inner = torch.searchsorted(value, (palette[1:] + palette[:-1]) / 2)
        bounds = torch.cat([torch.zeros(1).long(), inner, torch.tensor([len(value)])])
        within = mass[bounds].diff()
        palette = torch.where(within > 0, moment[bounds].diff() / within.clamp(min=1e-300), palette)
    return palette.half().double()


def from_palette(numbers: Tensor, palette: Tensor) -> Tensor:
    """Each of some numbers as the nearest of a palette."""
    return palette[_places(numbers, palette)]


def _places(numbers: Tensor, palette: Tensor) -> Tensor:
    return torch.bucketize(numbers.contiguous(), (palette[1:] + palette[:-1]) / 2)


def _placed(weight: Tensor, palette: Tensor, bits: int) -> Palettized:
    places = _places(weight.detach().to(palette.dtype), palette)
    return Palettized(places.to(torch.uint8), palette.float(), bits)
