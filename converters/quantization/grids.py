"""Grids of whole numbers that activations are rounded to. Importing this loads torch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.ao.quantization.fx import _decomposed  # noqa: F401  registers the operations

QUANTIZED = torch.ops.quantized_decomposed

# A tensor that stays within this is taken for zero, of which nothing has to be told apart. Biases are integers in steps
# of the scales of input and weight, and would leave their 32 bits where these are far smaller than they are.
_NOTHING = 1e-6


@dataclass(frozen=True)
class Grid:
    """The numbers ``scale`` · (q - ``zero_point``), q from the lowest to the highest of ``bits``, signed."""

    scale: float
    zero_point: int
    bits: int = 8

    @property
    def lowest(self) -> int:
        return -int(2 ** (self.bits - 1))

    @property
    def highest(self) -> int:
        return int(2 ** (self.bits - 1)) - 1

    @property
    def dtype(self) -> torch.dtype:
        return torch.int8 if self.bits <= 8 else torch.int16

    def levels(self, x: Tensor) -> Tensor:
        """The whole numbers that stand for x, counted from the lowest."""
        return ((x / self.scale).round() + self.zero_point - self.lowest).long().clamp(0, 2**self.bits - 1)

    def rounded(self, x: Tensor) -> Tensor:
        """The nearest numbers on the grid, by the operations that programs are given."""
        known = self.arguments
        integers = QUANTIZED.quantize_per_tensor.default(x, *known)
        rounded: Tensor = QUANTIZED.dequantize_per_tensor.default(integers, *known)
        return rounded

    @property
    def arguments(self) -> tuple[float, int, int, int, torch.dtype]:
        """As ``quantize_per_tensor`` and ``dequantize_per_tensor`` take them behind the tensor."""
        return self.scale, self.zero_point, self.lowest, self.highest, self.dtype


def spanning(low: float, high: float, bits: int = 8) -> Grid:
    """The grid over a range, widened so that zero, with which convolutions are padded, is on it.

    Of more than 8 bits it is symmetric: that is what runtimes compute with (TFLite's 16×8 kernels have no zero point).
    """
    low, high = min(low, 0.0), max(high, 0.0)
    lowest, highest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    if high - low < _NOTHING:
        return Grid(1.0, 0, bits)
    if bits > 8:
        return Grid(single(max(-low, high) / highest), 0, bits)
    scale = single((high - low) / (highest - lowest))
    return Grid(scale, max(lowest, min(highest, round(lowest - low / scale))), bits)


def single(number: float) -> float:
    """The nearest number of single precision, in which all runtimes keep scales."""
    return float(torch.tensor(number, dtype=torch.float32))
