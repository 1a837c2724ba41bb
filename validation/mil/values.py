"""Constants of a program: from ``MILSpec.Value`` messages to arrays and strings.

Which field of the message an element type travels in follows ``_tensor_field_by_type`` in coremltools'
``converters/mil/backend/mil/helper.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from lvexport.validation.mil import types
from lvexport.validation.mil.blobs import Blobs, Stored
from lvexport.validation.mil.errors import DamagedPackage, UnsupportedModel
from lvexport.validation.mil.packing import from_bytes, packed_size
from lvexport.validation.mil.types import LARGEST_VALUE, Array, ListType, TensorType, ValueType, read_type

Label: TypeAlias = str | int

# Fields that hold one number an element, and the element types that travel in each.
FIELDS = {
    "floats": (types.FLOAT32,),
    "doubles": (types.FLOAT64,),
    "ints": (types.INT8, types.UINT8, types.INT16, types.UINT16, types.INT32),
    "longInts": (types.INT64, types.UINT64),
    "bools": (types.BOOL,),
}


@dataclass(frozen=True)
class Constant:
    """A value known when the program is read.

    Attributes:
        type: as the program declares it.
        content: an array for a tensor of numbers, or where in a weight file it is; str for a scalar string, a tuple
            for a list or a tensor of strings.
    """

    type: ValueType
    content: Array | Stored | str | tuple[Label, ...]

    @property
    def numeric(self) -> bool:
        """Whether it is a tensor of numbers."""
        return isinstance(self.content, (np.ndarray, Stored))

    @property
    def value(self) -> Array | str | tuple[Label, ...]:
        """The content, read from the weight file each time it is asked for."""
        if not isinstance(self.content, Stored):
            return self.content
        assert isinstance(self.type, TensorType)
        return self.content.read().reshape(tuple(size or 0 for size in self.type.shape))


def read_constant(message: Any, blobs: Blobs) -> Constant:
    """The constant in a ``MILSpec.Value`` message.

    Raises:
        DamagedPackage: the data do not fit the declared type, or are not where the message says.
        UnsupportedModel: a constant of a kind that programs for Core ML do not hold (dictionary, tuple).
    """
    declared = read_type(message.type)
    where = message.WhichOneof("value")
    if isinstance(declared, ListType) and where == "immediateValue":
        return Constant(declared, _labels(message.immediateValue, declared, blobs))
    if not isinstance(declared, TensorType):
        raise UnsupportedModel("The program has a constant that is neither a tensor nor a list of labels.")
    count = declared.elements()
    if count is None:
        raise DamagedPackage("The program has a constant of unknown size.")
    if declared.dtype is types.STRING:
        return Constant(declared, _strings(message, declared, count))
    _require_possible(declared, count)
    if where == "blobFileValue":
        reference = message.blobFileValue
        return Constant(declared, blobs.stored(reference.fileName, reference.offset, count, declared.dtype))
    if where != "immediateValue" or message.immediateValue.WhichOneof("value") != "tensor":
        raise DamagedPackage(f"The program has a constant of type {declared} without a value.")
    elements = _immediate(message.immediateValue.tensor, declared, count)
    return Constant(declared, elements.reshape(tuple(size or 0 for size in declared.shape)))


def _require_possible(declared: TensorType, count: int) -> None:
    # With a dimension of 0 the others are not held by the data, and NumPy has no array of any of them.
    if count == 0 and math.prod(size or 1 for size in declared.shape) > LARGEST_VALUE:
        raise DamagedPackage(f"The program has a constant of the impossible type {declared}.")


def _immediate(message: Any, declared: TensorType, count: int) -> Array:
    name = message.WhichOneof("value")
    dtype = declared.dtype
    if name == "bytes":
        return _from_message_bytes(message.bytes.values, declared, count)
    if dtype not in FIELDS.get(name, ()):
        raise DamagedPackage(f"The program has a constant of type {declared} whose elements are given as {name}.")
    values: Sequence[Any] = getattr(message, name).values
    if len(values) != count:
        raise DamagedPackage(f"The program has a constant of type {declared} with {len(values)} elements.")
    wide = np.fromiter(values, dtype=dtype.numpy if dtype.numpy.kind in "fb" else np.int64, count=count)
    elements = wide.astype(dtype.numpy)
    if dtype.numpy.kind in "iu" and dtype is not types.UINT64 and not np.array_equal(wide, elements):
        raise DamagedPackage(f"The program has a constant of type {declared} with elements out of that type's range.")
    return elements


def _from_message_bytes(data: bytes, declared: TensorType, count: int) -> Array:
    if len(data) != packed_size(count, declared.dtype):
        raise DamagedPackage(f"The program has a constant of type {declared} in {len(data)} bytes.")
    return from_bytes(np.frombuffer(bytearray(data), dtype=np.uint8), count, declared.dtype)


def _strings(message: Any, declared: TensorType, count: int) -> str | tuple[str, ...]:
    values = tuple(message.immediateValue.tensor.strings.values)
    if len(values) != count:
        raise DamagedPackage(f"The program has a constant of type {declared} with {len(values)} strings.")
    return str(values[0]) if declared.shape == () else values


def _labels(message: Any, declared: ListType, blobs: Blobs) -> tuple[Label, ...]:
    elements = [read_constant(element, blobs).value for element in message.list.values]
    if declared.length not in (None, len(elements)):
        raise DamagedPackage(f"The program has a list of {declared.length} labels with {len(elements)} elements.")
    return tuple(_label(element) for element in elements)


def _label(value: Array | str | tuple[Label, ...]) -> Label:
    if isinstance(value, str):
        return value
    if isinstance(value, np.ndarray) and value.dtype == np.int64 and value.shape == ():
        return int(value)
    raise UnsupportedModel("The program has a list whose elements are neither strings nor 64-bit integers.")
