"""MIL's types: of elements, and of values (tensor, list, dictionary, …).

The numbers are those of ``DataType`` in coremltools' ``mlmodel/format/MIL.proto``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lvexport.validation.mil.errors import DamagedPackage, UnsupportedModel
from lvexport.validation.mil.protos import data_type_name

Array: TypeAlias = NDArray[Any]
LARGEST_VALUE = 2**30  # elements of one computed value; larger ones are taken for damage, not for a phone's model
Shape: TypeAlias = tuple[int | None, ...]  # None is a dimension known only when the model runs


@dataclass(frozen=True, eq=False)  # there is one of each, so that they are told apart, and hashed, by identity
class DType:
    """Type of an element.

    Attributes:
        name: as MIL programs and coremltools spell it (``fp16``, ``int32``, ``string``).
        bits: of one element in a packed array; 0 for strings, which are never packed.
        numpy: the NumPy type that holds it outside the interpreter. Types of under 8 bits take a byte there.
    """

    name: str
    bits: int
    numpy: np.dtype[Any]


def _dtype(name: str, bits: int, numpy: Any) -> DType:
    return DType(name, bits, np.dtype(numpy))


BOOL = _dtype("bool", 8, np.bool_)
STRING = _dtype("string", 0, np.str_)
FLOAT16 = _dtype("fp16", 16, "<f2")
FLOAT32 = _dtype("fp32", 32, "<f4")
FLOAT64 = _dtype("fp64", 64, "<f8")
INT4 = _dtype("int4", 4, np.int8)
INT8 = _dtype("int8", 8, np.int8)
INT16 = _dtype("int16", 16, "<i2")
INT32 = _dtype("int32", 32, "<i4")
INT64 = _dtype("int64", 64, "<i8")
UINT1 = _dtype("uint1", 1, np.uint8)
UINT2 = _dtype("uint2", 2, np.uint8)
UINT3 = _dtype("uint3", 3, np.uint8)
UINT4 = _dtype("uint4", 4, np.uint8)
UINT6 = _dtype("uint6", 6, np.uint8)
UINT8 = _dtype("uint8", 8, np.uint8)
UINT16 = _dtype("uint16", 16, "<u2")
UINT32 = _dtype("uint32", 32, "<u4")
UINT64 = _dtype("uint64", 64, "<u8")

BY_NUMBER = {
    1: BOOL,
    2: STRING,
    10: FLOAT16,
    11: FLOAT32,
    12: FLOAT64,
    21: INT8,
    22: INT16,
    23: INT32,
    24: INT64,
    25: INT4,
    31: UINT8,
    32: UINT16,
    33: UINT32,
    34: UINT64,
    35: UINT4,
    36: UINT2,
    37: UINT1,
    38: UINT6,
    39: UINT3,
}
BY_NAME = {dtype.name: dtype for dtype in BY_NUMBER.values()}


@dataclass(frozen=True)
class TensorType:
    """A tensor; rank 0 is a scalar.

    Attributes:
        dtype: of its elements.
        shape: its dimensions; one unknown stands for them all where ``any_rank`` is set.
        any_rank: even how many dimensions there are is known only when the model runs.
    """

    dtype: DType
    shape: Shape
    any_rank: bool = False

    def __str__(self) -> str:
        if self.any_rank:
            return f"{self.dtype.name}[…]"
        return f"{self.dtype.name}[{', '.join('?' if size is None else str(size) for size in self.shape)}]"

    def elements(self) -> int | None:
        """How many elements it has; None where a dimension is unknown."""
        sizes = [size for size in self.shape if size is not None]
        return math.prod(sizes) if len(sizes) == len(self.shape) else None

    def admits(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of that shape is of this type."""
        if self.any_rank:
            return True
        return len(shape) == len(self.shape) and all(
            declared in (None, actual) for declared, actual in zip(self.shape, shape, strict=True)
        )


@dataclass(frozen=True)
class ListType:
    """A list of equal elements, of unknown length where ``length`` is None."""

    element: ValueType
    length: int | None

    def __str__(self) -> str:
        return f"list of {self.element}"


@dataclass(frozen=True)
class DictType:
    """A dictionary, as classifiers return it: label → probability."""

    key: ValueType
    value: ValueType


@dataclass(frozen=True)
class TupleType:
    """A fixed number of values of unlike types."""

    elements: tuple[ValueType, ...]


@dataclass(frozen=True)
class StateType:
    """A tensor that outlives a prediction and can be written."""

    wrapped: ValueType


ValueType: TypeAlias = TensorType | ListType | DictType | TupleType | StateType


def element_type(number: int) -> DType:
    """The element type of that number in ``MIL.proto``.

    Raises:
        UnsupportedModel: MIL has it, but nothing that coremltools writes uses it (``BFLOAT16``, ``FLOAT8…``).
        DamagedPackage: MIL has no such type.
    """
    if number in BY_NUMBER:
        return BY_NUMBER[number]
    name = data_type_name(number)
    if name.startswith("#") or name == "UNUSED_TYPE":
        raise DamagedPackage(f"The program uses an element type that MIL does not have ({name}).")
    raise UnsupportedModel(f"The program uses the element type {name}, which this interpreter does not take.")


def read_type(message: Any) -> ValueType:
    """The type that a ``MILSpec.ValueType`` message describes."""
    kind = message.WhichOneof("type")
    if kind == "tensorType":
        return _tensor_type(message.tensorType)
    if kind == "listType":
        return ListType(read_type(message.listType.type), _dimension(message.listType.length))
    if kind == "dictionaryType":
        return DictType(read_type(message.dictionaryType.keyType), read_type(message.dictionaryType.valueType))
    if kind == "tupleType":
        return TupleType(tuple(read_type(element) for element in message.tupleType.types))
    if kind == "stateType":
        return StateType(read_type(message.stateType.wrappedType))
    raise DamagedPackage("The program has a value whose type is not given.")


def _tensor_type(message: Any) -> TensorType:
    shape = tuple(_dimension(dimension) for dimension in message.dimensions)
    if message.rank != len(shape):
        raise DamagedPackage(f"The program declares a tensor of rank {message.rank} with {len(shape)} dimensions.")
    any_rank = any(dimension.unknown.variadic for dimension in message.dimensions)
    return TensorType(element_type(message.dataType), (None,) if any_rank else shape, any_rank)


def _dimension(message: Any) -> int | None:
    return int(message.constant.size) if message.WhichOneof("dimension") == "constant" else None
