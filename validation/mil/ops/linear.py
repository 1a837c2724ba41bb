"""Matrix products (``iOS15/linear.py``; iOS 17 lets constants have another precision than the rest)."""

from __future__ import annotations

from torch import Tensor

from lvexport.validation.mil.call import Call
from lvexport.validation.mil.numerics import CARRIERS
from lvexport.validation.mil.table import op


@op("linear")
def linear(x: Tensor, weight: Tensor, call: Call, bias: Tensor | None = None) -> Tensor:
    """x [*D, D_in], weight [D_out, D_in], bias [D_out] → [*D, D_out] of x's element type."""
    return call.sums.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


@op("matmul")
def matmul(x: Tensor, y: Tensor, call: Call, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    """NumPy's matmul; the transpositions are of the last two dimensions and leave a vector alone.

    Of a constant and a computed operand, the result has the element type of the computed one.
    """
    carrier = CARRIERS[call.dtype]
    return call.sums.matmul(_transposed(x.to(carrier), transpose_x), _transposed(y.to(carrier), transpose_y))


@op("einsum")
def einsum(values: tuple[Tensor, ...], equation: str, call: Call) -> Tensor:
    return call.sums.einsum(equation, values)


def _transposed(x: Tensor, wanted: bool) -> Tensor:
    return x.transpose(-1, -2) if wanted and x.ndim > 1 else x
