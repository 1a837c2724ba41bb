"""Weight files: "MIL blob storage", version 2.

A header of 64 bytes, then for each array 64 bytes that describe it, and its data. All integers are
little-endian. The structures, the sentinel and the numbers of the types are those of
``mlmodel/src/MILBlob/Blob/StorageFormat.hpp`` and ``BlobDataType.hpp`` in coremltools.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lvexport.validation.mil import types
from lvexport.validation.mil.errors import DamagedPackage
from lvexport.validation.mil.package import Package
from lvexport.validation.mil.packing import from_bytes, packed_size
from lvexport.validation.mil.types import Array, DType

VERSION = 2
SENTINEL = 0xDEADBEEF
ALIGNMENT = 64  # bytes, of every structure and every array
HEADER = struct.Struct("<II")  # count of arrays, version
METADATA = struct.Struct("<IIQQ")  # sentinel, type, size in bytes, offset of the data in the file

STORED_AS = {
    1: types.FLOAT16,
    2: types.FLOAT32,
    3: types.UINT8,
    4: types.INT8,
    6: types.INT16,
    7: types.UINT16,
    8: types.INT4,
    9: types.UINT1,
    10: types.UINT2,
    11: types.UINT4,
    12: types.UINT3,
    13: types.UINT6,
    14: types.INT32,
    15: types.UINT32,
}


@dataclass(frozen=True)
class BlobFile:
    """A weight file in memory: ``data`` is its content, uint8 [bytes]."""

    path: Path
    data: Array

    @classmethod
    def read(cls, path: Path) -> BlobFile:
        """Reads the file once. It is not mapped: a mapped file that is cut while in use kills the process."""
        try:
            data = np.fromfile(path, dtype=np.uint8)
        except OSError as error:
            raise DamagedPackage(f"The weight file {path} cannot be read: {error}.") from error
        if data.size < ALIGNMENT:
            raise DamagedPackage(f"The weight file {path} has {data.size} bytes, fewer than its header.")
        _, version = HEADER.unpack_from(data.data)
        if version != VERSION:
            raise DamagedPackage(f"The weight file {path} has version {version}; only version {VERSION} is known.")
        return cls(path, data)

    def array(self, offset: int, count: int, dtype: DType) -> Array:
        """The ``count`` elements of the array described at ``offset``, which must be of type ``dtype``."""
        if offset < ALIGNMENT or offset % ALIGNMENT or offset + ALIGNMENT > self.data.size:
            raise self._damaged(offset, f"no array can be described there in a file of {self.data.size} bytes")
        sentinel, stored, size, start = METADATA.unpack_from(self.data.data, offset)
        if sentinel != SENTINEL:
            raise self._damaged(offset, f"the sentinel is {sentinel:#010x} instead of {SENTINEL:#010x}")
        if STORED_AS.get(stored) != dtype:
            held = STORED_AS[stored].name if stored in STORED_AS else f"of unknown type {stored}"
            raise self._damaged(offset, f"the program expects {dtype.name} and the file holds {held}")
        if size != packed_size(count, dtype):
            raise self._damaged(offset, f"{count} elements of {dtype.name} do not take the {size} bytes stored")
        if start < ALIGNMENT or start % ALIGNMENT or start + size > self.data.size:
            raise self._damaged(offset, f"its {size} bytes at {start} lie outside of {self.data.size}")
        return from_bytes(self.data[start : start + size], count, dtype)

    def _damaged(self, offset: int, why: str) -> DamagedPackage:
        return DamagedPackage(
            f"The weight file {self.path} does not hold the array that the program reads at offset {offset}: {why}."
        )


@dataclass(frozen=True)
class Blobs:
    """The weight files of a package, each read at its first use."""

    package: Package
    files: dict[str, BlobFile] = field(default_factory=dict)

    def array(self, name: str, offset: int, count: int, dtype: DType) -> Array:
        """Elements [count] of the array that file ``name`` describes at ``offset``."""
        if name not in self.files:
            self.files[name] = BlobFile.read(self.package.weight_file(name))
        return self.files[name].array(offset, count, dtype)
