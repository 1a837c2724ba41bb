"""ONNX: torch's dynamo exporter, then onnxsim, each step checked against the one before."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lvexport.converters.contract import Captured, Choice, ConversionError, Notes, Recipe, Request
from lvexport.converters.recipes import NO_PALETTES, RECIPES

# Simplifying may merge constants, which rounds a few numbers anew; anything beyond a few last places is a change.
_SIMPLIFIED_TOLERANCE = 1e-5
_REFUSALS = NO_PALETTES | {
    "w4a8": "ONNX Runtime multiplies 4-bit weights in floating point only, so that integers would compute nothing"
}
EIGHT = 8  # bits, which integers had in the first opset that had any


class Onnx:
    """``fp16`` computes in half precision between single-precision inputs and outputs, ``w8`` and ``w4`` in single."""

    name = "onnx"
    summary = "ONNX model, for ONNX Runtime on any platform"
    backend = "onnxruntime"
    suffix = ".onnx"
    distributions = ("onnx", "onnxscript", "onnxsim", "onnxruntime")
    modules = ("torch.onnx", "onnxscript")  # ONNX Runtime starts a thread
    seconds = 11
    recipes: Mapping[str, Recipe] = {name: recipe for name, recipe in RECIPES.items() if name not in _REFUSALS}
    refusals: Mapping[str, str] = MappingProxyType(_REFUSALS)
    options: Mapping[str, Choice] = MappingProxyType({})

    def convert(self, captured: Captured, request: Request, out: Path) -> Notes:
        import onnx
        import torch

        from lvexport.converters.derived import for_onnx
        from lvexport.converters.onnx_norms import with_factors
        from lvexport.converters.onnx_weights import strip, unsign, with_integers, with_transposed

        program = for_onnx(captured.program())
        weights, static = request.recipe.weights, request.recipe.activations is not None
        if static:
            from lvexport.converters.quantization.forms import with_flat_layers

            program = with_flat_layers(program)
        exported = torch.onnx.export(
            program,
            dynamo=True,
            input_names=[s.name for s in captured.inputs],
            output_names=[s.name for s in captured.outputs],
            verbose=False,
            opset_version=opset(request.recipe),
        )
        assert exported is not None
        if static:  # onnxsim would make integer weights floating-point numbers again
            model, remarks = with_transposed(exported.model_proto), []
            strip(model)
            if request.recipe.activations == EIGHT:
                unsign(model)
        else:
            simplified, remark = simplify(exported.model_proto, captured)
            model, remarks = with_factors(simplified), [remark]
        if request.recipe.name == "fp16":
            model = halve(model)
        if weights is not None and not static:
            model, count = with_integers(model, weights)
            remarks.append(f"weights in integers: {count}")
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, str(out))
        return Notes("torch.export", tuple(remarks))


def opset(recipe: Recipe) -> int | None:
    """The opset that a recipe's integers need; None for the exporter's own."""
    from lvexport.converters.onnx_weights import OPSET

    return None if recipe.weights is None or recipe.activations == EIGHT else OPSET


def halve(model: Any) -> Any:
    """The model in half precision, its inputs and outputs kept in single."""
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    halved = OnnxModel(convert_float_to_float16(model, keep_io_types=True))
    halved.topological_sort()  # the casts were appended behind the nodes that use them
    return halved.model


def simplify(model: Any, captured: Captured) -> tuple[Any, str]:
    """The simplified model and a remark on how far its outputs are from the original's.

    Raises ConversionError where simplifying changed what the model computes.
    """
    import onnxsim

    simplified, _ = onnxsim.simplify(model)
    change = largest_change(model, simplified, captured)
    if not change <= _SIMPLIFIED_TOLERANCE:
        raise ConversionError(
            f"onnxsim changed what the model computes: outputs moved by {change:.2g} of their range. This is a bug in "
            "onnxsim; please report it with the model."
        )
    return simplified, f"onnxsim: {len(model.graph.node)} → {len(simplified.graph.node)} nodes, change {change:.1e}"


def largest_change(before: Any, after: Any, captured: Captured) -> float:
    """Largest difference between two models' outputs on one random input, as a share of the outputs' range."""
    import numpy as np
    import onnxruntime

    random = np.random.default_rng(0)
    feed = {s.name: random.random(s.shape).astype(s.dtype) for s in captured.inputs}
    a, b = (
        onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feed)
        for m in (before, after)
    )
    return max(float(np.abs(x - y).max() / (np.ptp(x) or 1.0)) for x, y in zip(a, b, strict=True))


CONVERTER = Onnx()
