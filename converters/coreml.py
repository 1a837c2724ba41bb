"""Core ML: an ``.mlpackage`` that holds an ML Program, by coremltools."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from lvexport.converters.contract import Captured, Choice, ConversionError, Notes, Request
from lvexport.converters.mlpackage import MIN_IOS, NO_WORDS, PRECISIONS, RECIPES, STATIC, compressed, finish, weights_of

if TYPE_CHECKING:
    from torch.export import ExportedProgram

# What coremltools raises for a program that its torch.export front end does not take.
_NOT_TAKEN = (NotImplementedError, ValueError, KeyError, RuntimeError, AssertionError, TypeError)


class CoreML:
    """``io=image`` makes what an iOS developer expects of a classifier: a picture in, a label and probabilities out."""

    name = "coreml"
    summary = "Core ML ML Program, for iOS, iPadOS, macOS, tvOS, watchOS and visionOS"
    backend = "mlprogram"
    suffix = ".mlpackage"
    distributions = ("coremltools",)
    modules = ("lvexport.converters.coremltools_alone",)
    seconds = 18
    recipes = RECIPES | STATIC
    refusals: Mapping[str, str] = MappingProxyType({"w8a16": NO_WORDS})
    options: Mapping[str, Choice] = MappingProxyType(
        {
            "min_ios": MIN_IOS,
            "io": Choice(("tensor", "image"), "take a tensor, or a picture with preprocessing and labels built in"),
        }
    )

    def convert(self, captured: Captured, request: Request, out: Path) -> Notes:
        from lvexport.converters.coremltools_alone import coremltools as ct
        from lvexport.converters.derived import for_core_ml
        from lvexport.converters.quantization.forms import with_narrow_numbers

        program = for_core_ml(captured.program())
        if request.recipe.narrow is not None:
            program = with_narrow_numbers(program)
        arguments: dict[str, Any] = {
            "convert_to": "mlprogram",
            "minimum_deployment_target": getattr(ct.target, f"iOS{request.options['min_ios']}"),
            "compute_precision": getattr(ct.precision, PRECISIONS[request.recipe.significand_bits]),
            "skip_model_load": True,
        }
        if request.options["io"] == "image":
            program = with_picture_input(program, captured)
            arguments |= picture_interface(captured)
        else:
            arguments |= tensor_interface(captured)
        model, route = convert_program(program, arguments)
        integers = weights_of(request.recipe)
        if integers is not None:
            model = compressed(model, integers)
        model.save(str(out))
        finish(out, model.get_spec())
        return Notes(route)


def tensor_interface(captured: Captured) -> dict[str, Any]:
    """Inputs and outputs under the names of the captured program, in single precision; whole numbers of 32 bits.

    Core ML has none of 64; coremltools takes inputs of them for such, outputs it refuses.
    """
    import coremltools as ct
    import numpy as np

    return {
        "inputs": [ct.TensorType(name=s.name, shape=s.shape, dtype=np.dtype(s.dtype).type) for s in captured.inputs],
        "outputs": [
            ct.TensorType(name=s.name, dtype=np.dtype("int32" if s.dtype == "int64" else s.dtype).type)
            for s in captured.outputs
        ],
    }


def picture_interface(captured: Captured) -> dict[str, Any]:
    """A picture of the program's own size in; a label and a dictionary of probabilities out.

    Core ML takes pictures of any kind and hands the program their colours in the order that ``color_layout`` says. It
    computes scale·x + bias on 0…255, one scale for all channels; the division by ``std`` is in the program.
    """
    import coremltools as ct

    norm = captured.normalisation
    assert norm is not None
    spec = captured.inputs[0]
    picture = ct.ImageType(
        name=spec.name,
        shape=spec.shape,
        scale=1 / 255,
        bias=[-m for m in norm.in_order(norm.mean)],
        color_layout=ct.colorlayout[norm.channels],
    )
    classes = captured.outputs[0].shape[-1]
    labels = distinct(captured.labels) or [str(i) for i in range(classes)]
    return {"inputs": [picture], "classifier_config": ct.ClassifierConfig(labels)}


def distinct(labels: tuple[str, ...]) -> list[str]:
    """The labels, each that is there already followed by its number: Core ML answers with a dictionary of them.

    ImageNet has two such pairs, the bird and the machine called crane among them.
    """
    return [f"{label} ({i})" if label in labels[:i] else label for i, label in enumerate(labels)]


def with_picture_input(program: ExportedProgram, captured: Captured) -> ExportedProgram:
    """The program as :func:`picture_interface` calls it. Raises ConversionError where it is no picture classifier."""
    from lvexport.converters.derived import picture_classifier

    pictures = len(captured.inputs) == 1 and len(captured.inputs[0].shape) == 4 and captured.inputs[0].shape[1] == 3
    classes = len(captured.outputs) == 1 and len(captured.outputs[0].shape) == 2
    if captured.normalisation is None or not pictures or not classes:
        raise ConversionError(
            "--io image is for classifiers of one RGB picture, (1, 3, H, W) in and (1, classes) out; this model has "
            "another interface. Leave the option out to get a package that takes tensors."
        )
    return picture_classifier(program, captured.normalisation)


def convert_program(program: ExportedProgram, arguments: dict[str, Any]) -> tuple[Any, str]:
    """Convert the exported program or, where coremltools does not take it, a trace of it."""
    import coremltools as ct
    import torch

    from lvexport.converters.derived import examples

    if adds_to_one_output(program):
        arguments = arguments | {"pass_pipeline": without_linear_bias()}
    try:
        return ct.convert(program.run_decompositions({}), **arguments), "torch.export"
    except _NOT_TAKEN as error:
        with torch.no_grad():
            traced = torch.jit.trace(program.module(), examples(program), check_trace=False)  # type: ignore[no-untyped-call]
        try:
            return ct.convert(traced, **arguments), "torch.jit.trace"
        except _NOT_TAKEN:  # what is in the way of a trace is often of the trace alone
            raise error from None


def adds_to_one_output(program: ExportedProgram) -> bool:
    """Whether a number is added to a linear layer of one output, on which fuse_linear_bias of coremltools 9 fails."""
    from lvexport.converters.rewrites.graph import ATEN, calls, is_call, shape

    return any(
        shape(layer)[-1] == 1 and any(is_call(user, ATEN.add.Tensor, ATEN.sub.Tensor) for user in layer.users)
        for layer in calls(program.graph_module, ATEN.linear.default)
    )


def without_linear_bias() -> Any:
    """What coremltools does to every program, but for sums behind linear layers as their biases."""
    import coremltools as ct

    pipeline = ct.PassPipeline()
    pipeline.remove_passes({"common::fuse_linear_bias"})
    return pipeline


CONVERTER = CoreML()
