"""Weight files: "MIL blob storage", version 2.

A header of 64 bytes, then for each array 64 bytes that describe it, and its data. All integers are
little-endian. The structures, the sentinel and the numbers of the types are those of
``mlmodel/src/MILBlob/Blob/StorageFormat.hpp`` and ``BlobDataType.hpp`` in coremltools.
"""

from __future__ import annotations

import os
import struct
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

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


@dataclass(frozen=True, eq=False)
class BlobFile:
    """A weight file, open for as long as something may be read from it: weights are read when they are used.

    It is not mapped: a mapped file that is cut while in use kills the process.
    """

    path: Path
    file: IO[bytes]
    size: int

    @classmethod
    def open(cls, path: Path) -> BlobFile:
        """Opens the file and checks its header."""
        try:
            file = path.open("rb", buffering=0)
        except OSError as error:
            raise DamagedPackage(f"The weight file {path} cannot be read: {error}.") from error
        opened = cls(path, file, os.fstat(file.fileno()).st_size)
        weakref.finalize(opened, file.close)
        if opened.size < ALIGNMENT:
            raise DamagedPackage(f"The weight file {path} has {opened.size} bytes, fewer than its header.")
        _, version = HEADER.unpack_from(opened.bytes(0, HEADER.size).data)
        if version != VERSION:
            raise DamagedPackage(f"The weight file {path} has version {version}; only version {VERSION} is known.")
        return opened

    def bytes(self, start: int, size: int) -> Array:
        """What is in the file there, uint8 [size]."""
        data = np.empty(size, dtype=np.uint8)
        view = data.data
        while view:
            # One call reads at most 2 GiB (read(2)).
            count = os.preadv(self.file.fileno(), [view], start + size - len(view))
            if count == 0:
                raise DamagedPackage(f"The weight file {self.path} was cut short after it was opened.")
            view = view[count:]
        return data

    def stored(self, offset: int, count: int, dtype: DType) -> Stored:
        """The ``count`` elements of the array described at ``offset``, which must be of type ``dtype``."""
        if offset < ALIGNMENT or offset % ALIGNMENT or offset + ALIGNMENT > self.size:
            raise self._damaged(offset, f"no array can be described there in a file of {self.size} bytes")
        sentinel, stored, size, start = METADATA.unpack_from(self.bytes(offset, METADATA.size).data)
        if sentinel != SENTINEL:
            raise self._damaged(offset, f"the sentinel is {sentinel:#010x} instead of {SENTINEL:#010x}")
        if STORED_AS.get(stored) != dtype:
            held = STORED_AS[stored].name if stored in STORED_AS else f"of unknown type {stored}"
            raise self._damaged(offset, f"the program expects {dtype.name} and the file holds {held}")
        if size != packed_size(count, dtype):
            raise self._damaged(offset, f"{count} elements of {dtype.name} do not take the {size} bytes stored")
        if start < ALIGNMENT or start % ALIGNMENT or start + size > self.size:
            raise self._damaged(offset, f"its {size} bytes at {start} lie outside of {self.size}")
        return Stored(self, start, count, dtype)

    def _damaged(self, offset: int, why: str) -> DamagedPackage:
        return DamagedPackage(
            f"The weight file {self.path} does not hold the array that the program reads at offset {offset}: {why}."
        )


@dataclass(frozen=True)
class Stored:
    """``count`` elements from byte ``start`` of a weight file, which has them: that was checked."""

    file: BlobFile
    start: int
    count: int
    dtype: DType

    def read(self) -> Array:
        """The elements [count], read anew each time."""
        return from_bytes(self.file.bytes(self.start, packed_size(self.count, self.dtype)), self.count, self.dtype)


@dataclass(frozen=True)
class Blobs:
    """The weight files of a package, each opened at its first use."""

    package: Package
    files: dict[Path, BlobFile] = field(default_factory=dict)

    def stored(self, name: str, offset: int, count: int, dtype: DType) -> Stored:
        """Elements [count] of the array that file ``name`` describes at ``offset``."""
        path = self.package.weight_file(name)
        if path not in self.files:
            self.files[path] = BlobFile.open(path)
        return self.files[path].stored(offset, count, dtype)
