"""What a runtime is asked for, and what it answers.

A runtime is one module in ``runtimes/``, named like its converter. It runs a finished artifact from disk and never
loads the library that made it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lvexport.converters.contract import TensorSpec

Array = NDArray[Any]

# Markers that stand in place of a dtype.
PICTURE = "picture"  # an input or output that is a uint8 picture, (H, W, 3) in RGB order or (H, W) in grey
JUDGED = "rounded"  # the numerics that verdicts are judged with, where an artifact leaves them open
PROBABILITIES = "probabilities"  # an output that is the softmax of the original's
INTERPRETED = "an interpreter computes it here, whose time says nothing of a device"


@dataclass(frozen=True)
class Availability:
    """Whether a runtime can work here; if not, ``reason`` says why, and how to get it where it is ``to_be_had``.

    ``untimed``: why the time that it takes here says nothing of a device; empty where it does.
    """

    here: bool
    name: str  # as it stands in the manifest, such as "LiteRT 2.3.0"
    reason: str = ""
    to_be_had: bool = True
    untimed: str = ""


@dataclass(frozen=True)
class Description:
    """What can be read off an artifact: its interface and how many of each operator it has."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    operators: Mapping[str, int]
    remarks: tuple[str, ...] = ()


class Session(Protocol):
    """A loaded artifact."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Output name → array, for one array an input."""
        ...


@dataclass(frozen=True)
class Overflow:
    """``operation``, as its program calls it, is the first that leaves the range of half precision in a prediction
    with ``numerics``.
    """

    numerics: str
    operation: str


class Numerical(Session, Protocol):
    """An artifact loaded to be computed in one of several ways."""

    @property
    def overflow(self) -> Overflow | None:
        """The first of the runs so far; None where there was none."""
        ...


@runtime_checkable
class LabelledSession(Session, Protocol):
    """A session of an artifact that may hold the labels of its classes."""

    @property
    def labels(self) -> tuple[str, ...]:
        """In the order of its outputs; none where it holds none."""
        ...


@runtime_checkable
class StatefulSession(Session, Protocol):
    """A session of an artifact that may keep something from one run to the next."""

    def restart(self) -> None:
        """Forget what earlier runs left behind."""
        ...


@dataclass(frozen=True)
class OpCost:
    """What an operation of an artifact cost in one inference, all its runs in it together.

    ``name`` is of the first value that it makes, and ``shape`` that value's. ``seconds`` is the median over several
    inferences. ``read`` and ``written`` are bytes, weights included, in the types that the artifact declares.
    """

    type: str
    name: str
    shape: tuple[int, ...] | None
    runs: int
    seconds: float
    read: int
    written: int


@runtime_checkable
class ProfiledSession(Session, Protocol):
    """A session that can tell where its time goes."""

    def profile(self, inputs: Mapping[str, Array], inferences: int) -> tuple[OpCost, ...]:
        """In the order in which the operations first ran."""
        ...


@runtime_checkable
class OpenSession(Session, Protocol):
    """A session of an artifact that leaves open how its numbers are rounded, so that devices may differ."""

    @property
    def numerics(self) -> tuple[str, ...]:
        """Names of the ways of computing it that bound what devices do; none where nothing is left open."""
        ...

    def under(self, numerics: str) -> Numerical:
        """The artifact, loaded to be computed in that way; the session itself where it does so anyway."""
        ...


class Runtime(Protocol):
    """One target's runtime. The module's instance of it is called ``RUNTIME``."""

    def available(self) -> Availability: ...

    def load(self, artifact: Path, threads: int) -> Session:
        """Load an artifact. Raises ArtifactError where the file is not one."""
        ...

    def describe(self, artifact: Path) -> Description:
        """Read an artifact without running it."""
        ...


class ArtifactError(Exception):
    """The file is damaged, or is not what its name says; the message is for the user."""


class CannotRun(ArtifactError):
    """The file is sound, and nothing here can run it; the message is for the user."""


def numpy_name(dtype: Any) -> str:
    """numpy's spelling of a dtype."""
    return str(np.dtype(dtype))
