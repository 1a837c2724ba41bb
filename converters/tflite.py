"""TFLite: a ``.tflite`` flatbuffer by litert-torch, half precision by ai-edge-quantizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lvexport.converters.contract import ACTIVATIONS, DYNAMIC, Captured, Choice, Notes, Request, rounds_activations
from lvexport.converters.recipes import (
    FP16,
    FP32,
    GATED,
    GATED_NARROW,
    KERNELS_W4,
    NO_PALETTES,
    W8,
    W8A16,
    WIDE,
    bits_of_weights,
    rounding_activations,
)


class TFLite:
    """``fp16`` keeps weights in half precision; the runtime widens them when it loads the model.

    ``w8`` and ``w4`` compute layers in integers; ``w8`` dequantizes weights where ``activations`` is ``float``, which
    LiteRT's operator for that does not do with blocks.
    """

    name = "tflite"
    summary = "LiteRT (TensorFlow Lite), for Android, iOS and embedded Linux"
    backend = "litert"
    suffix = ".tflite"
    distributions = ("litert-torch", "ai-edge-quantizer")
    modules = ("litert_torch",)
    seconds = 17
    recipes = MappingProxyType(
        {"fp32": FP32, "fp16": replace(FP16, squares=True, method="float16 weights"), "w8": rounding_activations(W8)}
        | {"w4": replace(rounding_activations(KERNELS_W4), requires={"activations": (DYNAMIC,)})}
        | GATED
        | GATED_NARROW
        | {"w8a16": replace(W8A16, requires={"int8_io": ("no",)})}
    )
    refusals: Mapping[str, str] = MappingProxyType(NO_PALETTES)
    options: Mapping[str, Choice] = MappingProxyType(
        {
            "activations": ACTIVATIONS,
            "int8_io": Choice(("no", "yes"), "with integer activations: take and give 8-bit integers"),
        }
    )

    def convert(self, captured: Captured, request: Request, out: Path) -> Notes:
        import litert_torch

        if request.recipe.name in WIDE:
            from lvexport.converters import tflite_sixteen

            tflite_sixteen.write_layers(captured.program(), out)
            return Notes("torch.export")
        if request.recipe.activations is not None:
            from lvexport.converters.tflite_integers import write_layers
            from lvexport.converters.tflite_weights import narrow

            edit = None if request.recipe.narrow is None else narrow
            write_layers(captured.program(), out, floats=request.options["int8_io"] == "no", edit=edit)
            return Notes("torch.export")
        model = litert_torch.convert(*floating(captured))
        if request.recipe.name == "fp32":
            model.export(str(out))
            return Notes("torch.export")
        single = out.with_name(f"{out.stem}-single.tflite")
        model.export(str(single))
        remarks = compress(single, request, out)
        single.unlink()
        return Notes("torch.export", remarks)


def floating(captured: Captured) -> tuple[Any, tuple[Any, ...]]:
    """The program without roundings as a module that LiteRT's converter takes, and inputs like its own."""
    from lvexport.converters.rewrites.single_rows import spell_single_rows

    module, inputs = captured.module()
    spell_single_rows(module)
    module.recompile()
    return module, inputs


def compress(single: Path, request: Request, out: Path) -> tuple[str, ...]:
    """Write the model with the weights that the recipe asks for, and say what there is to say of them."""
    if request.recipe.weights is None:
        cast_weights(single, out)
        return ()
    from lvexport.converters.tflite_weights import write_integers

    dynamic = rounds_activations(request.recipe, request.options)
    count, counts = write_integers(single, request.recipe.weights, dynamic, out)
    mixed = len(request.recipe.weights.forms) > 1
    return (f"weights in integers: {count}", *((bits_of_weights(counts),) if mixed else ()))


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
