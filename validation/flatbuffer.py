"""What can be read off a ``.tflite`` file without an interpreter."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from lvexport.validation.contract import ArtifactError, Description
from lvexport.validation.grids import spec

_IDENTIFIER = b"TFL3"  # bytes 4 to 8 of every .tflite file (schema.fbs, file_identifier)


def read(artifact: Path) -> Any:
    """The model as objects of the schema. Raises ArtifactError."""
    from ai_edge_litert import schema_py_generated as schema

    data = artifact.read_bytes()
    if data[4:8] != _IDENTIFIER:
        raise ArtifactError(f"{artifact} is not a TFLite model: its identifier is missing.")
    try:
        return schema.ModelT.InitFromPackedBuf(data, 0)
    except Exception as error:  # whatever a damaged file makes of the offsets in it
        raise ArtifactError(f"{artifact} cannot be read as a TFLite model: {error}") from error


def tensors(model: Any, side: str) -> list[dict[str, Any]]:
    """The model's ``inputs`` or ``outputs``, described as LiteRT does it."""
    graph = model.subgraphs[0]
    return [_detail(graph.tensors[index]) for index in getattr(graph, side)]


def _detail(tensor: Any) -> dict[str, Any]:
    from ai_edge_litert import schema_py_generated as schema

    names = {number: name for name, number in vars(schema.TensorType).items() if not name.startswith("_")}
    grid = tensor.quantization
    there = grid is not None and grid.scale is not None and len(grid.scale) == 1
    return {
        "name": tensor.name.decode(),
        "shape": tuple(map(int, tensor.shape)),
        "dtype": np.dtype(names[tensor.type].lower()),
        "quantization": (float(grid.scale[0]), int(grid.zeroPoint[0])) if there else (0.0, 0),
    }


def operators(model: Any) -> list[str]:
    """The name of every operator, custom ones by their own."""
    from ai_edge_litert import schema_py_generated as schema

    names = {number: name for name, number in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    codes = [c.customCode.decode() if c.customCode else names[c.builtinCode] for c in model.operatorCodes]
    return [codes[operator.opcodeIndex] for operator in model.subgraphs[0].operators]


def describe(artifact: Path) -> Description:
    """Interface and operators."""
    model = read(artifact)
    inputs, outputs = (tuple(map(spec, tensors(model, side))) for side in ("inputs", "outputs"))
    return Description(inputs, outputs, dict(Counter(operators(model))))
