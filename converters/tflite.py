"""TFLite: a ``.tflite`` flatbuffer by litert-torch, half precision by ai-edge-quantizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from lvexport.converters.contract import Captured, Choice, Notes, Request
from lvexport.converters.recipes import FLOATS, FLOATS_ONLY


class TFLite:
    """``fp16`` keeps weights in half precision; the runtime widens them when it loads the model."""

    name = "tflite"
    summary = "LiteRT (TensorFlow Lite), for Android, iOS and embedded Linux"
    backend = "litert"
    suffix = ".tflite"
    distributions = ("litert-torch", "ai-edge-quantizer")
    modules = ("litert_torch",)
    recipes = FLOATS
    refusals = FLOATS_ONLY
    options: Mapping[str, Choice] = MappingProxyType({})

    def convert(self, captured: Captured, request: Request, out: Path) -> Notes:
        import litert_torch

        from lvexport.converters.derived import examples

        program = captured.program()
        model = litert_torch.convert(program.module(), examples(program))
        if request.recipe.name == "fp32":
            model.export(str(out))
        else:
            single = out.with_name(f"{out.stem}-single.tflite")
            model.export(str(single))
            cast_weights(single, out)
            single.unlink()
        return Notes("torch.export")


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
