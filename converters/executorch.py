"""ExecuTorch: a ``.pte`` program for the XNNPACK delegate."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from lvexport.converters.contract import Captured, Choice, Delegation, Integers, Notes, Request
from lvexport.converters.recipes import (
    GATED,
    KERNELS_W4,
    NO_PALETTES,
    W8,
    WIDENED,
    bits_of_weights,
    rounding_activations,
)

if TYPE_CHECKING:
    from torch.export import ExportedProgram

# It fails for convolutions that round what they take as it comes, where views lie between them and other layers.
_PASS = "ChannelsLastTaggedReshapePass"
_NO_WORDS = (
    "XNNPACK has no type for 16-bit activations; ExecuTorch's backends that have one, such as Arm's and Qualcomm's, do "
    "not run on the machine that builds, so that nothing could be verified"
)
_NO_NARROW = "XNNPACK's layers with 4-bit weights round activations as they come, and take no fixed grids for them"


class ExecuTorch:
    """``fp16`` computes in half precision between single-precision inputs and outputs, ``w8`` in integers.

    Normalisation, GELU, SiLU, sigmoid and hard sigmoid stay in single precision, within the delegate.

    XNNPACK has no kernels for integer weights alone: what layers take is rounded to 8 bits as it comes.
    """

    name = "executorch"
    summary = "ExecuTorch program for the XNNPACK delegate, for Android, iOS and embedded Linux on Arm or x86"
    backend = "xnnpack"
    suffix = ".pte"
    distributions = ("executorch",)
    modules = ("executorch.backends.xnnpack.partition.xnnpack_partitioner", "executorch.exir")
    seconds = 28
    recipes = WIDENED | {"w8": rounding_activations(W8), "w4": rounding_activations(KERNELS_W4)} | GATED
    refusals: Mapping[str, str] = MappingProxyType(NO_PALETTES | {"w8a16": _NO_WORDS, "w4a8": _NO_NARROW})
    options: Mapping[str, Choice] = MappingProxyType({})

    def convert(self, captured: Captured, request: Request, out: Path) -> Notes:
        from lvexport.converters.derived import for_xnnpack

        program = captured.program()
        if request.recipe.name == "fp16":
            program = halved(program)
        static = request.recipe.activations is not None
        if static:
            from lvexport.converters.quantization.forms import with_own_reading

            program = with_own_reading(program)
        program = for_xnnpack(program)
        if static or request.recipe.weights is None:
            remarks: tuple[str, ...] = ()
            edge, delegation = lowered(program)
        else:
            edge, delegation, remarks = lowered_in_integers(program, request.recipe.weights)
        out.write_bytes(edge.to_executorch().buffer)
        return Notes("torch.export", remarks, delegation)


def halved(program: ExportedProgram) -> ExportedProgram:
    """The program in half precision, but for activations that XNNPACK has not there, or not well enough."""
    from torch import ops

    from lvexport.converters.halves import halve

    # GELU it has in single precision alone. Its sigmoid of half precision errs two and a half times as much as rounding
    # does, for a hundredth of a network's time or less. Hard sigmoid is a product with a sixth, which in half precision
    # is 2e-4 too small, so that all gates would err to the same side.
    aten = ops.aten
    return halve(program, wide=[aten.gelu.default, aten.silu.default, aten.sigmoid.default, aten.hardsigmoid.default])


def lowered_in_integers(program: ExportedProgram, integers: Integers) -> tuple[Any, Delegation, tuple[str, ...]]:
    """:func:`lowered` with layers in integers, convolutions among them where ExecuTorch takes these; and remarks."""
    from lvexport.converters.xnnpack_weights import with_integers

    remarks: tuple[str, ...] = ()
    made, counts = with_integers(program, integers, convolutions=True)
    try:
        edge, delegation = lowered(made)
    except Exception as error:  # the library raises plain ones
        if _PASS not in str(error):
            raise
        made, counts = with_integers(program, integers, convolutions=False)
        edge, delegation = lowered(made)
        remarks = (f"convolutions stay in floating point: ExecuTorch's {_PASS} does not take integer ones here",)
    return edge, delegation, (*remarks, bits_of_weights(counts))


def lowered(program: ExportedProgram) -> tuple[Any, Delegation]:
    """The program with what XNNPACK takes handed to it, and the report on that."""
    from executorch.exir import to_edge_transform_and_lower

    from lvexport.converters import retracing
    from lvexport.converters.delegation import reasons, report
    from lvexport.converters.xnnpack_kernels import (
        NamedConversions,
        OwnReading,
        SpelledConversions,
        name_dynamic_prelus,
        partitioner,
    )

    name_dynamic_prelus(program)
    converts = computes_in_half(program)
    first = NamedConversions() if converts else OwnReading()
    with reasons("executorch.backends.xnnpack.partition") as heard, retracing.only_where_needed():
        edge = to_edge_transform_and_lower(program, [first], [partitioner()])
    if converts:
        edge = edge.transform([SpelledConversions()])
    return edge, report(edge, heard)


def computes_in_half(program: ExportedProgram) -> bool:
    """Whether any tensor of the program is of half precision."""
    import torch

    return any(getattr(node.meta.get("val"), "dtype", None) is torch.float16 for node in program.graph.nodes)


CONVERTER = ExecuTorch()
