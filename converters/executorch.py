"""ExecuTorch: a ``.pte`` program for the XNNPACK delegate."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from lvexport.converters.contract import Captured, Choice, Notes, Request
from lvexport.converters.recipes import FLOATS, FLOATS_ONLY, STATIC


class ExecuTorch:
    """``fp16`` computes in half precision between single-precision inputs and outputs."""

    name = "executorch"
    summary = "ExecuTorch program for the XNNPACK delegate, for Android, iOS and embedded Linux on Arm or x86"
    backend = "xnnpack"
    suffix = ".pte"
    distributions = ("executorch",)
    modules = ("executorch.backends.xnnpack.partition.xnnpack_partitioner", "executorch.exir")
    recipes = FLOATS | STATIC
    refusals = FLOATS_ONLY
    options: Mapping[str, Choice] = MappingProxyType({})

    def convert(self, captured: Captured, request: Request, out: Path) -> Notes:
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        from lvexport.converters.delegation import reasons, report
        from lvexport.converters.derived import for_xnnpack, halve

        program = captured.program()
        if request.recipe.name == "fp16":
            program = halve(program)
        if request.recipe.activations is not None:
            from lvexport.converters.quantization.forms import with_own_reading

            program = with_own_reading(program)
        with reasons("executorch.backends.xnnpack.partition") as heard:
            edge = to_edge_transform_and_lower(for_xnnpack(program), partitioner=[XnnpackPartitioner()])
        delegation = report(edge, heard)
        out.write_bytes(edge.to_executorch().buffer)
        return Notes("torch.export", delegation=delegation)


CONVERTER = ExecuTorch()
