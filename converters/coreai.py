"""Core AI: an ``.aimodel`` asset by coreai-torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from lvexport.converters.contract import Captured, Choice, Integers, Notes, Request
from lvexport.converters.recipes import INTEGERS, NO_STATIC, WIDENED

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import GraphModule

# How its compiler names the larger constants of a program.
_CONSTANT = re.compile(r"\bresource_(\d+)\b")


class CoreAI:
    """``fp16`` computes in half precision between single-precision inputs and outputs, ``w8`` and ``w4`` in single."""

    name = "coreai"
    summary = "Core AI model asset, for iOS, iPadOS, macOS, tvOS, watchOS and visionOS from version 27 on"
    backend = "coreai"
    suffix = ".aimodel"
    distributions = ("coreai-torch",)
    modules = ("coreai_torch",)
    seconds = 7
    recipes = WIDENED | INTEGERS
    refusals = NO_STATIC
    options: Mapping[str, Choice] = MappingProxyType({})

    def convert(self, captured: Captured, request: Request, out: Path) -> Notes:
        from coreai_torch import TorchConverter, get_decomp_table

        from lvexport.converters.derived import for_core_ai
        from lvexport.converters.halves import halve

        program = for_core_ai(captured.program())
        if request.recipe.name == "fp16":
            program = halve(program)
        if request.recipe.weights is not None:
            program = with_integers(program, request.recipe.weights)
        # Its other mode keeps stack traces, and with them this machine's paths.
        converter = TorchConverter(mode=TorchConverter.Mode.RELEASE).add_exported_program(
            program.run_decompositions(get_decomp_table()),
            input_names=[s.name for s in captured.inputs],
            output_names=[s.name for s in captured.outputs],
        )
        reproducible(converter.to_coreai()).save_asset(out)
        undate(out)
        return Notes("torch.export")


def with_integers(program: ExportedProgram, integers: Integers) -> ExportedProgram:
    """The program with its rounded weights as integers and scales, under coreai-torch's operation for them.

    The converter takes their number of bits from that operation, and stores two 4-bit integers in a byte
    (coreai_torch/_compression/utils.py).
    """
    import torch
    from coreai_torch._compression import custom_layers  # noqa: F401, which defines the operation

    from lvexport.converters.compression import recovered, weights
    from lvexport.converters.derived import attach, constant, examples, rewritten

    scaled = torch.ops.coreai.constexpr_blockwise_shift_scale.default

    def spell_weights(module: GraphModule) -> None:
        for node in list(weights(module)):
            found = recovered(constant(module, node), integers)
            if found is None:
                continue
            kind = getattr(torch, f"int{found.bits}")
            with module.graph.inserting_after(node):
                scale = module.graph.get_attr(attach(module, f"{node.name}_scale", found.scale))
            with module.graph.inserting_after(scale):
                data = module.graph.get_attr(attach(module, f"{node.name}_data", found.data))
            with module.graph.inserting_after(data):
                weight = module.graph.call_function(scaled, (data, scale, None, None, kind))
            node.replace_all_uses_with(weight)

    return torch.export.export(rewritten(program, spell_weights), examples(program))


def reproducible(program: Any) -> Any:
    """The same program with names that follow from it, so that it is always saved as the same bytes.

    coreai-core appends letters drawn at random to the name of a graph that stands for one operation, such as a layer
    normalisation, and keeps the plain name as the attribute ``template_op`` (coreai/authoring/graph_builder.py). Its
    compiler names a constant after a hash that is seeded anew in each process. Numbers take the place of both.
    """
    from coreai._compiler.ir import Module

    module = program._module._mlir_module
    number_graphs(module)
    text = module.operation.get_asm(print_generic_op_form=True, enable_debug_info=True)
    numbers: dict[str, int] = {}
    renamed = _CONSTANT.sub(lambda found: f"constant_{numbers.setdefault(found[1], len(numbers))}", text)
    return type(program)._from_mlir_module(Module.parse(renamed, module.context))


def number_graphs(module: Any) -> None:
    from coreai._compiler.ir import SymbolTable

    graphs = [graph for graph in module.body.operations if "template_op" in graph.attributes]
    with module.context:
        for i, graph in enumerate(graphs):
            old, new = SymbolTable.get_symbol_name(graph).value, f"{graph.attributes['template_op'].value}_{i}"
            SymbolTable.replace_all_symbol_uses(old, new, module.operation)
            SymbolTable.set_symbol_name(graph, new)


def undate(asset: Path) -> None:
    """Take out the day on which the asset was made, and put what else is said of it in order."""
    path = asset / "metadata.json"
    said = json.loads(path.read_text())
    said.pop("creationDate", None)
    path.write_text(json.dumps(said, indent=2, sort_keys=True) + "\n")


CONVERTER = CoreAI()
