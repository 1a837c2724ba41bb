"""What an operation may know about where it stands in the program, beyond its arguments."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lvexport.validation.mil import types
from lvexport.validation.mil.errors import DamagedPackage
from lvexport.validation.mil.program import Opset
from lvexport.validation.mil.sums import SINGLE, Sums
from lvexport.validation.mil.types import LARGEST_VALUE, DType, TensorType, ValueType


@dataclass(frozen=True)
class Call:
    """One use of an operation.

    Attributes:
        op: the operation's type and name, for messages.
        opset: that of the function.
        outputs: declared types of the results.
        sums: how the operation is to add up.
    """

    op: str
    opset: Opset
    outputs: tuple[ValueType, ...]
    sums: Sums = SINGLE

    @property
    def dtype(self) -> DType:
        """Declared element type of the first result."""
        declared = self.outputs[0]
        if not isinstance(declared, TensorType):
            raise DamagedPackage(f"The program declares a result of {self.op} that is not a tensor.")
        return declared.dtype

    def represented(self, value: float) -> float:
        """``value`` as the result's precision has it: a default of 1e-12 is 0 in a half-precision operation."""
        return float(np.float16(value)) if self.dtype is types.FLOAT16 else value

    def expect(self, shape: tuple[int, ...]) -> None:
        """To be called before a result of that shape is allocated by an operation whose parameters decide its size.

        Raises:
            DamagedPackage: the program declares another shape, or nothing on a phone has that size.
        """
        declared = self.outputs[0]
        if isinstance(declared, TensorType) and not declared.admits(shape):
            raise DamagedPackage(f"The program declares {declared} as the result of {self.op}, which makes {shape}.")
        self._expect_plausible(shape)

    def expect_elements(self, element: TensorType) -> None:
        """The same for what a list holds, each of whose elements may be made of zeros."""
        self._expect_plausible(tuple(size for size in element.shape if size is not None))

    def _expect_plausible(self, shape: tuple[int, ...]) -> None:
        if min(shape, default=0) < 0 or math.prod(shape) > LARGEST_VALUE:
            raise DamagedPackage(f"The result of {self.op} would have the shape {shape}.")
