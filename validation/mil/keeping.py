"""Which constants of a program stay in memory, by the size of the package that they come from.

A constant is kept in the form in which it is computed with while there is room for it. There is room for two bytes
for each of the package's: float32 weights take one, float16 weights, held as float32, two. What finds none, as most
of a package of four bits does, stays in the file and is made anew for each operation that reads it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from lvexport.validation.mil.blobs import Stored
from lvexport.validation.mil.errors import DamagedPackage
from lvexport.validation.mil.lists import TensorList
from lvexport.validation.mil.nesting import Value
from lvexport.validation.mil.numerics import CARRIERS, to_tensor
from lvexport.validation.mil.types import TensorType, ValueType
from lvexport.validation.mil.values import Constant

ROOM = 2  # bytes of kept constants for each byte of the package
LEAST_ROOM = 32 * 2**20  # bytes; a small package is not slowed down to save less than that
# One bit of a package may stand for a vector of float32, or for 32 zeros in a row of a sparse tensor.
LARGEST_GROWTH = 256
LEAST_LARGEST = 16 * 2**20  # bytes


class Room:
    """The constants of one program that are kept, and the room that is left for others."""

    def __init__(self, package_bytes: int) -> None:
        self._left = max(ROOM * package_bytes, LEAST_ROOM)
        self._largest = max(LARGEST_GROWTH * package_bytes, LEAST_LARGEST)
        self._tensors: dict[Stored | int, tuple[Any, Tensor]] = {}

    def take(self, size: int, spare: int = 0) -> bool:
        """Takes ``size`` bytes if so many and ``spare`` are left, and says whether it did: the first come get them."""
        fits = size + spare <= self._left
        self._left -= size if fits else 0
        return fits

    def tensor(self, constant: Constant) -> Tensor | None:
        """A tensor of numbers, one for all constants with the same content; None if it is not kept."""
        assert isinstance(constant.type, TensorType)
        # Two constants may be the same bytes of a weight file; what the specification holds itself is told by its id.
        key = constant.content if isinstance(constant.content, Stored) else id(constant.content)
        if key not in self._tensors:
            if not self.take(bytes_of(constant.type) or 0):
                return None
            self._tensors[key] = constant.content, tensor_of(constant)
        return self._tensors[key][1].reshape(_sizes(constant.type))

    def expect(self, declared: ValueType, op: str) -> None:
        """To be called before ``op`` unpacks a constant of that type.

        Raises:
            DamagedPackage: nothing that coremltools compresses is so much larger than the package.
        """
        size = bytes_of(declared)
        if size is None:
            raise DamagedPackage(f"The program declares {declared} as the constant that {op} unpacks.")
        if size > self._largest:
            raise DamagedPackage(
                f"The operation {op} would unpack a constant of {size:,} bytes, over {LARGEST_GROWTH} times the size "
                "of the package. Nothing that coremltools compresses grows so much: the package was altered."
            )


def tensor_of(constant: Constant) -> Tensor:
    """The constant as a tensor, read anew if it is in a weight file. Raises ValueError: it is text."""
    value = constant.value
    if not isinstance(constant.type, TensorType) or not isinstance(value, np.ndarray):
        raise ValueError("text is given where a tensor is expected")
    return to_tensor(value, constant.type.dtype)


def bytes_of(declared: ValueType) -> int | None:
    """What a value of that type takes as a tensor; None if it is none, or if that is not known."""
    if not isinstance(declared, TensorType) or declared.dtype not in CARRIERS:
        return None
    count = declared.elements()
    return None if count is None else count * CARRIERS[declared.dtype].itemsize


def bytes_held(value: Value) -> int:
    """By a value that an operation made. A view of another one counts as if it were none."""
    if isinstance(value, Tensor):
        return value.nbytes
    return value.bytes if isinstance(value, TensorList) else 0


def _sizes(declared: TensorType) -> tuple[int, ...]:
    return tuple(size or 0 for size in declared.shape)
