"""Labelled pictures to measure accuracy on: a folder of class folders, a list, an archive, or those that ship.

All of them are read one picture at a time, so that any number of them fits.
"""

from __future__ import annotations

import csv
import io
import math
import re
import warnings
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lvexport.errors import UsageError
from lvexport.validation import sample

BUILTIN = "builtin"
LIST = "labels.csv"
WORDNET = re.compile(r"n\d{8}")  # what the class folders of ImageNet are called; classes are numbered in their order


@dataclass(frozen=True)
class Picture:
    """``pixels``: (h, w, 3) uint8 RGB. ``label``: index of its class. ``stored``: its bytes, as they lie on disk."""

    pixels: NDArray[np.uint8]
    label: int
    stored: bytes


@dataclass(frozen=True)
class Labelled:
    """``count`` pictures that ``read`` gives one by one. ``name`` says what they are, without folders of a machine."""

    name: str
    count: int
    read: Callable[[], Iterator[Picture]]


def open_data(data: str | Path, labels: Sequence[str], classes: int, limit: int | None = None) -> Labelled:
    """Pictures for a network of so many ``classes``, which ``labels`` names where they have names.

    ``data``: ``builtin``, a folder of class folders, a folder with ``labels.csv``, or an ``.npz`` file. ``limit``: how
    many at most; they are then taken evenly from the whole. Raises UsageError where they cannot be used.
    """
    if str(data) == BUILTIN:
        return shipped(labels, limit)
    path = Path(data)
    if path.suffix == ".npz" and path.is_file():
        return archive(path, labels, classes, limit)
    if not path.is_dir():
        raise UsageError(
            f"There are no labelled pictures at {path}. Name a folder with a folder for each class, an .npz file, or "
            f"{BUILTIN}."
        )
    found = listed(path) if (path / LIST).is_file() else in_folders(path)
    if not found:
        raise UsageError(
            f"{path} holds no pictures. Put them at {path}/CLASS/NAME, in any format that Pillow reads, or name them "
            f"in {path / LIST} with the columns file,label."
        )
    where = f"{path / LIST} has labels" if (path / LIST).is_file() else f"{path} has folders"
    index = numbered(sorted({name for _, name in found}), labels, classes, where)
    chosen = [found[i] for i in evenly(len(found), limit)]
    for file, _ in chosen:
        check(file)
    return Labelled(path.resolve().name, len(chosen), lambda: (opened(file, index[name]) for file, name in chosen))


def evenly(count: int, limit: int | None) -> list[int]:
    """So many indices at most of ``count``, from everywhere: data are often laid down class by class."""
    taken = count if limit is None else min(limit, count)
    return [i * count // taken for i in range(taken)]


def shipped(labels: Sequence[str], limit: int | None) -> Labelled:
    """The labelled test part of the sample that ships, for networks that have its classes."""
    pictures = sample.suited(labels, sample.LARGEST)
    if pictures.classes != tuple(labels):
        own = f"{len(labels)} other classes ({some(labels)})" if labels else "classes without names"
        raise UsageError(
            f"The pictures that ship show {some(pictures.classes)}, and the model has {own}. Give labelled pictures of "
            "your own: a folder with a folder for each class."
        )
    chosen = evenly(len(pictures.labels), limit)

    def read() -> Iterator[Picture]:
        for i in chosen:
            yield Picture(pictures.pixels[i], int(pictures.labels[i]), pictures.pixels[i].tobytes())

    return Labelled(f"{pictures.name}, shipped test part", len(chosen), read)


def in_folders(path: Path) -> list[tuple[Path, str]]:
    """Every picture below a class folder, with the folder's name. Files of other kinds are passed over."""
    kinds = set(Image.registered_extensions())
    return [
        (file, folder.name)
        for folder in sorted(path.iterdir())
        if folder.is_dir() and not folder.name.startswith(".")
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in kinds and not file.name.startswith(".")
    ]


def listed(path: Path) -> list[tuple[Path, str]]:
    """The rows of ``labels.csv``: columns ``file``, from its folder, and ``label``."""
    with (path / LIST).open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if not {"file", "label"} <= set(rows.fieldnames or ()):
            raise UsageError(f"{path / LIST} has no columns file and label. Its first line has to be file,label.")
        return [(path / row["file"], row["label"].strip()) for row in rows]


def numbered(names: Sequence[str], labels: Sequence[str], classes: int, where: str) -> dict[str, int]:
    """Name → index of the class. A name is the class's label, its number, or a WordNet id, where all classes are there.

    Letters and digits of a label are enough, for not all of its characters can stand in a folder's name.
    """
    known: defaultdict[str, set[int]] = defaultdict(set)
    for i, label in enumerate(labels):
        known[label].add(i)
        known[plain(label)].add(i)
    found = {name: known.get(name) or known.get(plain(name)) or set() for name in names}
    if all(len(those) == 1 for those in found.values()):
        return {name: min(those) for name, those in found.items()}
    if all(name.isdecimal() and int(name) < classes for name in names):
        return {name: int(name) for name in names}
    if len(names) == classes and all(map(WORDNET.fullmatch, names)):
        return {name: i for i, name in enumerate(sorted(names))}
    if double := [name for name, those in found.items() if len(those) > 1]:
        raise UsageError(
            f"{where} called {some(double)}, and more than one of the model's classes is called so. Call them by the "
            f"classes' numbers, 0 to {classes - 1}."
        )
    strange = [name for name, those in found.items() if not those]
    own = f"has the {classes} classes {some(labels)}" if labels else f"has {classes} classes without names"
    raise UsageError(
        f"{where} that are no classes of the model: {some(strange)}. The model {own}. Call them by the labels or the "
        f"numbers, 0 to {classes - 1}, of its classes."
    )


def plain(label: str) -> str:
    """Letters and digits alone, in lower case."""
    return "".join(c for c in label.casefold() if c.isalnum())


def some(names: Sequence[str], most: int = 5) -> str:
    """The first few names, and that there are more."""
    return ", ".join(map(repr, names[:most])) + (f", … ({len(names)} in all)" if len(names) > most else "")


def check(file: Path) -> None:
    """Raise UsageError for a file that is no picture, by its first bytes, before hours are spent on the others."""
    with reading(file), Image.open(file):
        pass


def opened(file: Path, label: int) -> Picture:
    with reading(file):
        stored = file.read_bytes()
        with Image.open(io.BytesIO(stored)) as image:
            return Picture(np.asarray(image.convert("RGB")), label, stored)


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """A block in which a picture is read: what Pillow raises becomes a UsageError, and it warns of nothing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise UsageError(f"{file} cannot be read as a picture ({reason}). Mend it or take it out.") from error


def archive(path: Path, labels: Sequence[str], classes: int, limit: int | None) -> Labelled:
    """An ``.npz`` file: ``pixels`` (n, h, w, 3) or (n, h, w) uint8, and ``labels`` (n,), numbers or names."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if not {"pixels", "labels"} <= set(file.files):
                raise UsageError(f"{path} holds {some(file.files)}. It has to hold pixels and labels.")
            named = [str(label) for label in file["labels"].reshape(-1)]
        with pixels_of(path) as (shape, _):
            pass
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} cannot be read as an archive of numpy's ({error}). Write it again.") from error
    if not named or shape[0] != len(named):
        raise UsageError(f"{path} holds {shape[0]} pictures and {len(named)} labels. It needs one for each, and some.")
    index = numbered(sorted(set(named)), labels, classes, f"{path} has labels")
    chosen = set(evenly(len(named), limit))

    def read() -> Iterator[Picture]:
        with pixels_of(path) as (shape, rows):
            for i in range(shape[0]):
                stored = rows(math.prod(shape[1:]))
                if i in chosen:
                    values = np.frombuffer(stored, np.uint8).reshape(shape[1:])
                    colours = values if values.ndim == 3 else np.repeat(values[..., None], 3, axis=2)
                    yield Picture(colours, index[named[i]], stored)

    return Labelled(path.name, len(chosen), read)


@contextmanager
def pixels_of(path: Path) -> Iterator[tuple[tuple[int, ...], Callable[[int], bytes]]]:
    """The shape of an archive's pixels, and a function that gives the next so many bytes of them.

    Raises ValueError where they are no pictures.
    """
    with zipfile.ZipFile(path) as members, members.open("pixels.npy") as file:
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, in_columns, kind = read_header[np.lib.format.read_magic(file)](file)
        if kind != np.uint8 or in_columns or len(shape) not in (3, 4) or shape[3:] not in ((), (3,)):
            raise ValueError(f"pixels are {kind} {shape}, and have to be uint8 (n, h, w, 3) or (n, h, w)")
        yield shape, file.read
