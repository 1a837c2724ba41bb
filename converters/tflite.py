"""TFLite: a ``.tflite`` flatbuffer by litert-torch, half precision by ai-edge-quantizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from lvexport.converters.contract import ACTIVATIONS, Captured, Choice, Notes, Request, rounds_activations
from lvexport.converters.recipes import FP16, FP32, STATIC, W8, rounding_activations

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_NO_BLOCKS = (
    "LiteRT has no kernel for convolutions with blocks of 4-bit integers, and its DEQUANTIZE knows no blocks either"
)


class TFLite:
    """``fp16`` keeps weights in half precision; the runtime widens them when it loads the model.

    ``w8`` computes layers in integers, or dequantizes their weights where ``activations`` is ``float``.
    """

    name = "tflite"
    summary = "LiteRT (TensorFlow Lite), for Android, iOS and embedded Linux"
    backend = "litert"
    suffix = ".tflite"
    distributions = ("litert-torch", "ai-edge-quantizer")
    modules = ("litert_torch",)
    recipes = MappingProxyType(
        {"fp32": FP32, "fp16": replace(FP16, method="float16 weights"), "w8": rounding_activations(W8)} | STATIC
    )
    refusals: Mapping[str, str] = MappingProxyType({"w4": _NO_BLOCKS})
    options: Mapping[str, Choice] = MappingProxyType(
        {
            "activations": ACTIVATIONS,
            "int8_io": Choice(("no", "yes"), "with integer activations: take and give 8-bit integers"),
        }
    )

    def convert(self, captured: Captured, request: Request, out: Path) -> Notes:
        import litert_torch

        from lvexport.converters.derived import examples

        program = captured.program()
        if request.recipe.activations is not None:
            integer(program, out)
            if request.options["int8_io"] == "no":
                with_float_interface(out)
            return Notes("torch.export")
        model = litert_torch.convert(program.module(), examples(program))
        if request.recipe.name == "fp32":
            model.export(str(out))
            return Notes("torch.export")
        single = out.with_name(f"{out.stem}-single.tflite")
        model.export(str(single))
        remarks = compress(single, request, out)
        single.unlink()
        return Notes("torch.export", remarks)


def compress(single: Path, request: Request, out: Path) -> tuple[str, ...]:
    """Write the model with the weights that the recipe asks for, and say what there is to say of them."""
    if request.recipe.weights is None:
        cast_weights(single, out)
        return ()
    from lvexport.converters.tflite_weights import write_integers

    dynamic = rounds_activations(request.recipe, request.options)
    count = write_integers(single, request.recipe.weights, dynamic, out)
    return (f"weights in integers: {count}",)


def integer(program: ExportedProgram, out: Path) -> None:
    """Write a program with roundings as a model in which integers compute what lies between them."""
    import litert_torch
    from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
    from litert_torch.quantize.quant_config import QuantConfig

    from lvexport.converters.derived import examples
    from lvexport.converters.quantization.forms import with_float_weights

    program = with_float_weights(program)
    # The quantizer is not used: only through it is the converter told what to do with roundings.
    static = PT2EQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True, is_dynamic=False))
    model = litert_torch.convert(program.module(), examples(program), quant_config=QuantConfig(static))
    model.export(str(out))


def with_float_interface(path: Path) -> None:
    """Put a QUANTIZE behind each 8-bit input of a model and a DEQUANTIZE before each such output."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    graph = model.subgraphs[0]
    graph.inputs, graph.outputs = list(graph.inputs), list(graph.outputs)
    for place, index in enumerate(graph.inputs):
        if graph.tensors[index].type == schema.TensorType.INT8:
            new = float_copy(model, index)
            graph.operators.insert(0, operator(model, schema.BuiltinOperator.QUANTIZE, new, index))
            rename(model, "inputs", index, new)
            graph.inputs[place] = new
    for place, index in enumerate(graph.outputs):
        if graph.tensors[index].type == schema.TensorType.INT8:
            new = float_copy(model, index)
            graph.operators.append(operator(model, schema.BuiltinOperator.DEQUANTIZE, index, new))
            rename(model, "outputs", index, new)
            graph.outputs[place] = new
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))


def float_copy(model: Any, index: int) -> int:
    """A tensor of the same name and shape in single precision; the name of the old one tells the two apart."""
    from ai_edge_litert import schema_py_generated as schema

    old, new = model.subgraphs[0].tensors[index], schema.TensorT()
    new.name, new.shape, new.shapeSignature = old.name, old.shape, old.shapeSignature
    new.hasRank, new.type, new.buffer = old.hasRank, schema.TensorType.FLOAT32, 0
    old.name = old.name + b"_integers"
    model.subgraphs[0].tensors.append(new)
    return len(model.subgraphs[0].tensors) - 1


def operator(model: Any, code: int, given: int, made: int) -> Any:
    """A call of an operator with one input and one output."""
    from ai_edge_litert import schema_py_generated as schema

    codes = [c.builtinCode for c in model.operatorCodes]
    if code not in codes:
        known = schema.OperatorCodeT()
        known.builtinCode = known.deprecatedBuiltinCode = code
        known.version = 1
        model.operatorCodes.append(known)
        codes.append(code)
    found = schema.OperatorT()
    found.opcodeIndex, found.inputs, found.outputs = codes.index(code), [given], [made]
    return found


def rename(model: Any, side: str, old: int, new: int) -> None:
    """Let signatures name another tensor."""
    for signature in model.signatureDefs or ():
        for entry in getattr(signature, side):
            if entry.tensorIndex == old:
                entry.tensorIndex = new


def cast_weights(single: Path, out: Path) -> None:
    """Write the model with the weights of its matrix products and convolutions in half precision."""
    from ai_edge_quantizer import qtyping, quantizer

    casting = quantizer.Quantizer(str(single))
    casting.update_quantization_recipe(
        regex=".*",
        operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
        op_config=qtyping.OpQuantizationConfig(
            weight_tensor_config=qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT),
            compute_precision=qtyping.ComputePrecision.FLOAT,
            explicit_dequantize=True,
        ),
        algorithm_key=quantizer.AlgorithmName.FLOAT_CASTING,
    )
    casting.quantize().export_model(str(out))


CONVERTER = TFLite()
