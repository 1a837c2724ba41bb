"""Sliding windows: how convolution and pooling pad their input, and how many windows fit.

The rules are those of ``spatial_dimensions_out_shape`` and ``aggregated_pad`` in coremltools'
``converters/mil/mil/ops/defs/_utils.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Axis:
    """Windows along one spatial axis.

    Attributes:
        before, after: elements of padding.
        count: how many windows there are.
        overhang: how many elements the last window reaches beyond the padded input; only where counts round up.
    """

    before: int
    after: int
    count: int
    overhang: int


def along_axis(
    size: int, kernel: int, stride: int, dilation: int, pad_type: str, pad: tuple[int, int], round_up: bool = False
) -> Axis:
    """Windows of ``kernel`` elements, ``dilation`` apart, on an axis of ``size`` elements.

    Args:
        pad_type: ``valid`` (no padding), ``custom`` (``pad``), ``same`` (as many windows as strides, what padding
            cannot be halved goes after) or ``same_lower`` (goes before).
        round_up: count a window that does not fit whole, as PyTorch's ``ceil_mode`` does.
    """
    extent = (kernel - 1) * dilation + 1
    before, after = _padding(size, extent, stride, pad_type, pad)
    total = before + after
    count = (size + total - extent + (stride - 1 if round_up else 0)) // stride + 1
    # A window that would begin in the padding behind the input is dropped.
    if round_up and total > 0 and (count - 1) * stride >= size + total / 2:
        count -= 1
    return Axis(before, after, count, max(0, (count - 1) * stride + extent - size - total))


def _padding(size: int, extent: int, stride: int, pad_type: str, pad: tuple[int, int]) -> tuple[int, int]:
    if pad_type == "valid":
        return 0, 0
    if pad_type == "custom":
        return pad
    total = max(0, (-(-size // stride) - 1) * stride + extent - size)
    if pad_type == "same":
        return total // 2, total - total // 2
    if pad_type == "same_lower":
        return total - total // 2, total // 2
    raise ValueError(f"there is no pad_type {pad_type!r}")


def pad_spatial(x: Tensor, pads: Sequence[tuple[int, int]], value: float) -> Tensor:
    """Pads the last ``len(pads)`` dimensions of ``x`` by (before, after) with ``value``."""
    if not any(before or after for before, after in pads):
        return x
    # torch lists the last dimension first.
    flat = [amount for before, after in reversed(pads) for amount in (before, after)]
    return F.pad(x, flat, value=value)


def per_axis(values: tuple[int, ...] | None, rank: int, default: int) -> tuple[int, ...]:
    """One value for each of ``rank`` axes."""
    if values is None:
        return (default,) * rank
    if len(values) != rank:
        raise ValueError(f"{len(values)} values are given for {rank} spatial dimensions")
    return values


def pad_pairs(pad: tuple[int, ...] | None, rank: int) -> tuple[tuple[int, int], ...]:
    """MIL's flat list (before and after each axis in turn) as pairs."""
    flat = per_axis(pad, 2 * rank, 0)
    return tuple(zip(flat[::2], flat[1::2], strict=True))
