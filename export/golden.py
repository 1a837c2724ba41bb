"""Golden vectors: real inputs with what the original answers, for whoever checks an artifact elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from lvexport.converters.contract import Normalisation, TensorSpec
from lvexport.feeding import tensors
from lvexport.jobs import Inputs
from lvexport.validation.contract import Array
from lvexport.validation.sample import PICTURES

SMALLEST, LARGEST = 8, 64
FULL_SIZE = 64  # pixels a side up to which LARGEST vectors are kept


def count(imgsz: int, available: int) -> int:
    """How many vectors a bundle keeps, so that large inputs do not make it large."""
    return min(int(np.clip(round(LARGEST * (FULL_SIZE / max(imgsz, 1)) ** 2), SMALLEST, LARGEST)), available)


def write(
    path: Path,
    inputs: Inputs,
    specs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    references: Sequence[Array],
    labels: Array | None,
    kept: int,
    networks: Mapping[str, Sequence[Array]],
    layers: Mapping[str, Array],
) -> None:
    """Write ``input.<name>`` as the program takes it, ``pictures`` as they were, ``output.<name>`` and ``labels``.

    ``networks``: of each rounded network its outputs; ``<network>.output.<name>``. ``layers``: what their layers are
    made of, ``<network>.layer.<number>.<layer>.<what>``.
    """
    few = Inputs(inputs.path, kept, inputs.normalisation)
    columns = zip(*tensors(few), strict=True)
    arrays = {f"input.{s.name}": np.concatenate(column) for s, column in zip(specs, columns, strict=True)}
    arrays |= {f"output.{s.name}": np.ascontiguousarray(r[:kept]) for s, r in zip(outputs, references, strict=True)}
    for recipe, found in networks.items():
        pairs = zip(outputs, found, strict=True)
        arrays |= {f"{recipe}.output.{s.name}": np.ascontiguousarray(n[:kept]) for s, n in pairs}
    arrays |= layers
    if inputs.normalisation is not None:
        with safe_open(inputs.path, framework="numpy") as file:
            arrays[PICTURES] = file.get_slice(PICTURES)[:kept]
    if labels is not None:
        arrays["labels"] = np.asarray(labels[:kept], np.int64)
    save_file(arrays, path)


def unpack(
    path: Path,
    specs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    normalisation: Normalisation | None,
    out: Path,
) -> tuple[Inputs, list[Array], Array | None]:
    """Read a golden file back: the inputs as a file for cells at ``out``, the original's outputs, and the labels."""
    arrays = load_file(path)
    references = [arrays[f"output.{s.name}"] for s in outputs]
    if PICTURES in arrays and normalisation is not None:
        save_file({PICTURES: arrays[PICTURES]}, out)
    else:
        normalisation = None
        save_file({f"{i:03}": arrays[f"input.{s.name}"] for i, s in enumerate(specs)}, out)
    return Inputs(out, len(references[0]), normalisation), references, arrays.get("labels")


def networks(path: Path, outputs: Sequence[TensorSpec], recipes: Sequence[str]) -> dict[str, list[Array]]:
    """Recipe → what the network with its rounded weights answers, for those of the recipes that the file has."""
    with safe_open(path, framework="numpy") as file:
        kept = set(file.keys())
        names = {recipe: [f"{recipe}.output.{s.name}" for s in outputs] for recipe in recipes}
        return {recipe: [file.get_tensor(n) for n in keys] for recipe, keys in names.items() if kept.issuperset(keys)}


def layers(path: Path, network: str) -> dict[str, Array]:
    """What the layers of a rounded network are made of; nothing where the file does not say."""
    start = f"{network}.layer."
    with safe_open(path, framework="numpy") as file:
        names = [name for name in set(file.keys()) if name.startswith(start)]
        return {name.removeprefix(start): file.get_tensor(name) for name in sorted(names)}
