"""Layers as an artifact holds them, and whether they are those of the rounded network."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Grid = tuple[float, int]  # scale, zero point
# Scales may have been rounded to half precision on the way, to 11 bits.
_TOLERANCE = 2.0**-10
_TINY = 2.0**-24  # the least number of half precision
_PRINTED = 5e-7  # and flatc, by which ExecuTorch's delegates are read, prints six decimals


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer with integer weights.

    ``digest``: of the weights, channel by channel and in each channel in order of size, so that it is the same in every
    layout. ``scales``: (channels,), or those of one channel's blocks after the other's, or the numbers of a palette, of
    which the weights then are places. ``given``, ``output``: grids of
    what it takes and gives; None where none is there.
    """

    name: str
    digest: str
    scales: NDArray[np.float64]
    given: Grid | None
    output: Grid | None


@dataclass(frozen=True)
class Comparison:
    """``expected`` layers, of which ``found`` are in the artifact; ``wrong``: layer → what is not as it was rounded."""

    expected: int
    found: int
    wrong: Mapping[str, str] = field(default_factory=dict)


def digest(weights: NDArray[np.int8], axis: int) -> str:
    """Of integer weights whose outputs are along an axis."""
    rows = np.sort(np.moveaxis(weights, axis, 0).reshape(weights.shape[axis], -1), axis=1)
    return hashlib.sha256(np.ascontiguousarray(rows, np.int8).tobytes()).hexdigest()


def placed(weights: NDArray[np.floating]) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    """A weight of few different numbers as places among these, and the numbers, the smallest first."""
    # In double precision, for NumPy sorts half precision wrong on some processors.
    numbers, places = np.unique(weights.astype(np.float64), return_inverse=True)
    return places.reshape(weights.shape).astype(np.int8), numbers


def nibbles(data: NDArray[np.uint8], count: int) -> NDArray[np.int8]:
    """So many 4-bit integers, two in a byte, the first in its lower half."""
    pairs = halves_of_bytes(data)[:count].astype(np.int8)
    return np.where(pairs > 7, pairs - 16, pairs).astype(np.int8)


def halves_of_bytes(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(…, n) → (…, 2n), from 0 to 15 each, the lower half of a byte first."""
    return np.stack([data & 15, data >> 4], -1).reshape(*data.shape[:-1], -1)


def compare(expected: Sequence[Layer], found: Iterable[Layer]) -> Comparison:
    """Look for each layer among those of the artifact, by its weights, and compare the rest.

    Where weights alone are rounded, an artifact may keep some of them in floating point, so there the layers that it
    has in integers are looked for among those that are expected.
    """
    if all(layer.given is None and layer.output is None for layer in expected):
        return compare_weights(expected, list(found))
    by_weights = by_digest(found)
    wrong, count = {}, 0
    for layer in expected:
        candidates = by_weights.get(layer.digest, [])
        count += bool(candidates)
        reasons = [difference(layer, candidate) for candidate in candidates]
        if None not in reasons:
            wrong[layer.name] = reasons[0] if reasons else "no layer of the artifact has its integer weights"
    return Comparison(len(expected), count, {name: why for name, why in wrong.items() if why is not None})


def by_digest(layers: Iterable[Layer]) -> dict[str, list[Layer]]:
    """Layers by their integer weights."""
    found: dict[str, list[Layer]] = {}
    for layer in layers:
        found.setdefault(layer.digest, []).append(layer)
    return found


def compare_weights(expected: Sequence[Layer], found: Sequence[Layer]) -> Comparison:
    """Whether each layer of an artifact has the weights of an expected one."""
    by_weights = by_digest(expected)
    wrong = {}
    for layer in found:
        reasons = [difference(one, layer) for one in by_weights.get(layer.digest, [])]
        if None not in reasons:
            wrong[layer.name] = reasons[0] if reasons else "its integers are not those of a rounded weight"
    here = {layer.digest for layer in found}
    count = sum(layer.digest in here for layer in expected)
    return Comparison(len(expected), count, {name: why for name, why in wrong.items() if why is not None})


def difference(expected: Layer, found: Layer) -> str | None:
    """What of a layer is not as it should be; None where all is."""
    what = "scale" if np.all(expected.scales >= 0) else "palette number"  # a scale is never negative
    if len(expected.scales) != len(found.scales):
        return f"it has {len(found.scales)} {what}s and not {len(expected.scales)}"
    near = np.isclose(found.scales, expected.scales, rtol=_TOLERANCE, atol=0)
    if not np.all(near | (found.scales == in_half(expected.scales))):  # of small ones half keeps fewer bits
        worst = int(np.argmax(np.abs(found.scales - expected.scales) / np.maximum(np.abs(expected.scales), _TINY)))
        return f"{what} {worst} is {found.scales[worst]:.6g} and not {expected.scales[worst]:.6g}"
    return apart("what it is given", expected.given, found.given) or apart(
        "what it gives", expected.output, found.output
    )


def in_half(scales: NDArray[np.float64]) -> NDArray[np.float16]:
    """As half precision has them, where none becomes zero (coremltools raises what would)."""
    return np.maximum(scales.astype(np.float16), np.finfo(np.float16).smallest_subnormal)


def apart(what: str, expected: Grid | None, found: Grid | None) -> str | None:
    """How two grids differ; a grid that is not in the artifact is no difference where none was asked for."""
    if expected is None:
        return None
    if found is None:
        return f"{what} is not rounded"
    if abs(found[0] - expected[0]) > expected[0] * _TOLERANCE + _PRINTED:
        return f"the scale of {what} is {found[0]:.6g} and not {expected[0]:.6g}"
    if found[1] != expected[1]:
        return f"the zero point of {what} is {found[1]} and not {expected[1]}"
    return None


def packed(layers: Sequence[Layer]) -> dict[str, NDArray[np.generic]]:
    """As arrays for a file: ``<number>.<name>.scales`` and ``.grids``, and the digest as ``.digest``."""
    arrays: dict[str, NDArray[np.generic]] = {}
    for i, layer in enumerate(layers):
        key = f"{i:04}.{layer.name}"
        arrays[f"{key}.scales"] = layer.scales
        arrays[f"{key}.grids"] = np.array([layer.given or (0, 0), layer.output or (0, 0)], np.float64)
        arrays[f"{key}.digest"] = np.frombuffer(bytes.fromhex(layer.digest), np.uint8)
    return arrays


def unpacked(arrays: Mapping[str, NDArray[np.generic]]) -> list[Layer]:
    """The layers of :func:`packed`, in order."""
    found = []
    for key in sorted({name.rpartition(".")[0] for name in arrays}):
        given, output = (_grid(row) for row in np.asarray(arrays[f"{key}.grids"], np.float64))
        scales = np.asarray(arrays[f"{key}.scales"], np.float64)
        found.append(Layer(key.partition(".")[2], arrays[f"{key}.digest"].tobytes().hex(), scales, given, output))
    return found


def _grid(row: NDArray[np.float64]) -> Grid | None:
    return (float(row[0]), int(row[1])) if row[0] else None
