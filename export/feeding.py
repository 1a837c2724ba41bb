"""Handing the sample to the original and to artifacts, and writing down what they answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from lvexport.converters.contract import TensorSpec
from lvexport.jobs import Inputs
from lvexport.validation.contract import PICTURE, Array, ArtifactError
from lvexport.validation.sample import PICTURES, normalise

# Inputs over which an artifact keeps its states, and the original its buffers, before both begin anew. One alone would
# not tell whether what is written is there the next time.
SEQUENCE = 4


def tensors(inputs: Inputs) -> Iterator[list[Array]]:
    """Each input of the sample as the original takes it, a batch of one."""
    with safe_open(inputs.path, framework="numpy") as file:
        slices = [file.get_slice(name) for name in sorted(file.keys())]
        for i in range(inputs.count):
            arrays = [s[i : i + 1] for s in slices]
            yield arrays if inputs.normalisation is None else [normalise(arrays[0], inputs.normalisation)]


def feeds(inputs: Inputs, specs: tuple[TensorSpec, ...]) -> Iterator[dict[str, Array]]:
    """Each input of the sample as the artifact takes it: a picture where it asks for one, else tensors.

    Raises ArtifactError where it takes something else than the original.
    """
    if [s.dtype for s in specs] == [PICTURE]:
        with safe_open(inputs.path, framework="numpy") as file:
            if PICTURES not in set(file.keys()):
                raise ArtifactError("the artifact takes a picture, and the original does not take one picture alone")
            pictures = file.get_slice(PICTURES)
            wanted, found = specs[0].shape, tuple(pictures.get_shape()[1:])
            if wanted not in ((), found):
                raise ArtifactError(
                    f"the artifact's input {specs[0].name} is a picture {wanted}, the original's {found}"
                )
            for i in range(inputs.count):
                yield {specs[0].name: pictures[i]}
        return
    for arrays in tensors(inputs):
        if len(arrays) != len(specs):
            raise ArtifactError(f"the artifact takes {len(specs)} inputs, the original {len(arrays)}")
        for array, s in zip(arrays, specs, strict=True):
            if s.shape and tuple(array.shape) != s.shape:
                raise ArtifactError(f"the artifact's input {s.name} has shape {s.shape}, the original's {array.shape}")
        yield {s.name: array.astype(s.dtype, copy=False) for array, s in zip(arrays, specs, strict=True)}


def save_outputs(outputs: list[list[Array]], out: Path) -> None:
    """Write the outputs of all samples, joined along the first axis, as ``0``, ``1``, …"""
    joined = (np.concatenate([np.atleast_1d(a) for a in column]) for column in zip(*outputs, strict=True))
    save_file({str(i): np.ascontiguousarray(a) for i, a in enumerate(joined)}, out)


def load_outputs(path: Path) -> list[Array]:
    """The arrays of :func:`save_outputs`, in order."""
    stored = load_file(path)
    return [stored[str(i)] for i in range(len(stored))]
