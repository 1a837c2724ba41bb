"""TFLite models in which integers compute layers, by litert-torch. Importing this loads torch.

The converter writes each tensor's name, with the modules that it comes from, and a zero point for every channel of
every weight. In a small network these take a quarter of the file; here equal vectors are written once, and names short.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray
from torch.export import ExportedProgram

from lvexport.converters import tflite_edits as edits
from lvexport.converters.derived import examples
from lvexport.converters.quantization.forms import with_float_weights
from lvexport.converters.tflite_fences import fence, without_fences

_IDENTIFIER = b"TFL3"
_ALIGNMENT = 16  # of constants in the file, in bytes (schema.fbs, ``force_align`` of Buffer.data)


def write_layers(program: ExportedProgram, out: Path, floats: bool, edit: Callable[[Any], None] | None = None) -> None:
    """Write a program with roundings as a model in which integers compute what lies between them.

    ``floats``: the model takes and gives single precision, and computes in it what is faster so; else the integers that
    its first and last layers do go in and come out.
    ``edit`` changes the model in place.
    """
    model = converted(program, floats)
    if edit is not None:
        edit(model)
    if floats:
        give_float_interface(model)
    shorten_names(model)
    write(model, out)


def write(model: Any, out: Path) -> None:
    """Write a model with equal vectors once."""
    builder = SharingBuilder()
    builder.Finish(model.Pack(builder), _IDENTIFIER)
    out.write_bytes(bytes(builder.Output()))


def converted(program: ExportedProgram, floats: bool) -> Any:
    """The model as the converter makes it, with integers between roundings and nowhere else.

    ``floats``: but in what is faster in single precision.
    """
    import litert_torch
    from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
    from litert_torch.quantize.quant_config import QuantConfig

    # The quantizer is not used: only through it is the converter told what to do with roundings.
    static = PT2EQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True, is_dynamic=False))
    module = with_float_weights(program)
    kind = fence(module, floats)
    made = litert_torch.convert(module, examples(program), quant_config=QuantConfig(static))
    model = schema.ModelT.InitFromPackedBuf(made.model_content(), 0)
    if kind is not None:
        without_fences(model, kind)
    return model


class SharingBuilder(flatbuffers.Builder):  # type: ignore[misc]
    """Writes equal vectors once, and constants where kernels may read them."""

    def __init__(self) -> None:
        super().__init__()
        self.written: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, x: NDArray[Any]) -> int:  # noqa: N802, the library's name
        key = x.dtype.str, x.tobytes()
        if key not in self.written:
            aligned = _ALIGNMENT if x.dtype == np.uint8 else x.itemsize
            self.StartVector(x.itemsize, x.size, aligned)
            self.head = self.Head() - x.nbytes
            self.Bytes[self.head : self.head + x.nbytes] = key[1]
            self.written[key] = self.EndVector()
        return self.written[key]


def shorten_names(model: Any) -> None:
    """Number the tensors that are neither inputs nor outputs."""
    for graph in model.subgraphs:
        kept = {*graph.inputs, *graph.outputs}
        for number, tensor in enumerate(graph.tensors):
            if number not in kept:
                tensor.name = str(number).encode()


def give_float_interface(model: Any) -> None:
    """Put a QUANTIZE behind each 8-bit input of a model and a DEQUANTIZE before each such output."""
    graph = model.subgraphs[0]
    graph.inputs, graph.outputs = list(graph.inputs), list(graph.outputs)
    for place, index in enumerate(graph.inputs):
        if graph.tensors[index].type == schema.TensorType.INT8:
            new = float_copy(model, index)
            graph.operators.insert(0, edits.operator(model, schema.BuiltinOperator.QUANTIZE, new, index))
            rename(model, "inputs", index, new)
            graph.inputs[place] = new
    for place, index in enumerate(graph.outputs):
        if graph.tensors[index].type == schema.TensorType.INT8:
            new = float_copy(model, index)
            graph.operators.append(edits.operator(model, schema.BuiltinOperator.DEQUANTIZE, index, new))
            rename(model, "outputs", index, new)
            graph.outputs[place] = new


def float_copy(model: Any, index: int) -> int:
    """A tensor of the same name and shape in single precision; what the old one is called tells the two apart."""
    old, new = model.subgraphs[0].tensors[index], schema.TensorT()
    new.name, new.shape, new.shapeSignature = old.name, old.shape, old.shapeSignature
    new.hasRank, new.type, new.buffer = old.hasRank, schema.TensorType.FLOAT32, 0
    old.name = old.name + b"_integers"
    model.subgraphs[0].tensors.append(new)
    return len(model.subgraphs[0].tensors) - 1


def rename(model: Any, side: str, old: int, new: int) -> None:
    """Let signatures name another tensor."""
    for signature in model.signatureDefs or ():
        for entry in getattr(signature, side):
            if entry.tensorIndex == old:
                entry.tensorIndex = new
