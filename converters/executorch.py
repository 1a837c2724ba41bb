"""ExecuTorch: a ``.pte`` program for the XNNPACK delegate."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from lvexport.converters.contract import Captured, Choice, Notes, Request
from lvexport.converters.recipes import FLOATS, STATIC, W8, rounding_activations

_NO_BLOCKS = (
    "XNNPACK takes 4-bit integers in linear layers alone, and in blocks of 32 input channels or a multiple of them, "
    "which 80 or 144 channels do not have; convolutions it computes with 8 bits"
)


class ExecuTorch:
    """``fp16`` computes in half precision between single-precision inputs and outputs, ``w8`` in integers.

    XNNPACK has no kernels for integer weights alone: what layers take is rounded to 8 bits as it comes.
    """

    name = "executorch"
    summary = "ExecuTorch program for the XNNPACK delegate, for Android, iOS and embedded Linux on Arm or x86"
    backend = "xnnpack"
    suffix = ".pte"
    distributions = ("executorch",)
    modules = ("executorch.backends.xnnpack.partition.xnnpack_partitioner", "executorch.exir")
    recipes = FLOATS | {"w8": rounding_activations(W8)} | STATIC
    refusals: Mapping[str, str] = MappingProxyType({"w4": _NO_BLOCKS})
    options: Mapping[str, Choice] = MappingProxyType({})

    def convert(self, captured: Captured, request: Request, out: Path) -> Notes:
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        from lvexport.converters.delegation import reasons, report
        from lvexport.converters.derived import for_xnnpack, halve

        program = captured.program()
        if request.recipe.name == "fp16":
            program = halve(program)
        static = request.recipe.activations is not None
        if static:
            from lvexport.converters.quantization.forms import with_own_reading

            program = with_own_reading(program)
        with reasons("executorch.backends.xnnpack.partition") as heard:
            lowered = for_xnnpack(program, None if static else request.recipe.weights)
            edge = to_edge_transform_and_lower(lowered, partitioner=[XnnpackPartitioner()])
        delegation = report(edge, heard)
        out.write_bytes(edge.to_executorch().buffer)
        return Notes("torch.export", delegation=delegation)


CONVERTER = ExecuTorch()
