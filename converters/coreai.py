"""Core AI: an ``.aimodel`` asset by coreai-torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lvexport.converters.contract import Captured, Choice, Notes, Request
from lvexport.converters.recipes import INTEGERS, NARROW, P4, STATIC, WIDENED

# How its compiler names the larger constants of a program.
_CONSTANT = re.compile(r"\bresource_(\d+)\b")
# coreai.quantize gives integers of 4 or 8 bits (coreai_torch/_compression/custom_layers.py).
_NO_WORDS = "Core AI's operation quantize makes integers of 8 bits at most, so 16-bit activations have no form there"


class CoreAI:
    """``fp16`` computes in half precision between single-precision inputs and outputs, integer weights in single."""

    name = "coreai"
    summary = "Core AI model asset, for iOS, iPadOS, macOS, tvOS, watchOS and visionOS from version 27 on"
    backend = "coreai"
    suffix = ".aimodel"
    distributions = ("coreai-torch",)
    modules = ("coreai_torch",)
    seconds = 7
    recipes = WIDENED | INTEGERS | {P4.name: P4} | STATIC | NARROW
    refusals: Mapping[str, str] = MappingProxyType({"w8a16": _NO_WORDS})
    options: Mapping[str, Choice] = MappingProxyType({})

    def convert(self, captured: Captured, request: Request, out: Path) -> Notes:
        from coreai_torch import TorchConverter, get_decomp_table

        from lvexport.converters.coreai_integers import with_integer_layers, with_integers
        from lvexport.converters.derived import for_core_ai
        from lvexport.converters.halves import halve

        program = for_core_ai(captured.program())
        if request.recipe.name == "fp16":
            program = halve(program)
        if request.recipe.activations is not None:
            program = with_integer_layers(program)
        elif request.recipe.weights is not None:
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


def reproducible(program: Any) -> Any:
    """The same program with names that follow from it, so that it is always saved as the same bytes.

    coreai-core appends letters drawn at random to the name of a graph that stands for one operation, such as a layer
    normalisation, and keeps the plain name as the attribute ``template_op`` (coreai/authoring/graph_builder.py). Its
    compiler names a constant after a hash that is seeded anew in each process. Numbers take the place of both.

    coreai-torch gives each operation a number for its debugging tools, some 50 bytes each, which are 6 % of a small
    network in integers. Programs that are built with coreai itself have none.
    """
    from coreai._compiler.ir import Module

    module = program._module._mlir_module
    number_graphs(module)
    forget_places(module)
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


def forget_places(module: Any) -> None:
    """Take out where operations and what they are given come from."""
    from coreai._compiler._mlir_libs._coreaiIR._bindings.mlir import set_block_arg_location, set_op_location
    from coreai._compiler.ir import Location, WalkResult

    unknown = Location.unknown(context=module.context)

    def forget(operation: Any) -> Any:
        set_op_location(operation, unknown)
        for argument in (argument for region in operation.regions for block in region for argument in block.arguments):
            set_block_arg_location(argument, unknown)
        return WalkResult.ADVANCE

    module.operation.walk(forget)


def undate(asset: Path) -> None:
    """Take out the day on which the asset was made, and put what else is said of it in order."""
    path = asset / "metadata.json"
    said = json.loads(path.read_text())
    said.pop("creationDate", None)
    path.write_text(json.dumps(said, indent=2, sort_keys=True) + "\n")


CONVERTER = CoreAI()
