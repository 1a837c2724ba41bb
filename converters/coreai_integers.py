"""Programs with integers, under the operations that coreai-torch has for them. Importing this loads torch."""

from __future__ import annotations

import torch
from coreai_torch._compression import custom_layers  # noqa: F401, which defines these operations
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from lvexport.converters.compression import form_of, recovered, weights
from lvexport.converters.contract import Integers
from lvexport.converters.derived import examples, rewritten
from lvexport.converters.palettes import recovered_palette
from lvexport.converters.quantization.forms import bits
from lvexport.converters.quantization.grids import QUANTIZED
from lvexport.converters.rewrites.graph import call, calls, constant, keep, prune, replace
from lvexport.converters.rewrites.layers import column

_CORE_AI = torch.ops.coreai


def with_integers(program: ExportedProgram, integers: Integers) -> ExportedProgram:
    """The program with its rounded weights as integers and scales, or places and palettes.

    The converter takes their number of bits from the operation or the palette, and stores two of 4 bits in a byte
    (coreai_torch/_compression/utils.py).
    """

    def spell_weights(module: GraphModule) -> None:
        for node in list(weights(module)):
            value, form, behind = constant(module, node), form_of(node.users, integers), node.next
            assert value is not None
            if form.palette and (places := recovered_palette(value, form)) is not None:
                # The converter looks for the words indices and lut in the names of these.
                of = keep(module, behind, "weight_indices", places.data)
                palette = places.palette.reshape(*(1 for _ in value.shape), -1, 1)
                made = call(behind, _CORE_AI.lut_to_dense.default, of, keep(module, behind, "weight_lut", palette), 0)
            elif (found := recovered(value, integers)) is not None:
                made = scaled(module, behind, found.data, found.scale, getattr(torch, f"int{found.bits}"))
            else:
                continue
            node.replace_all_uses_with(made)
        prune(module)

    return torch.export.export(rewritten(program, spell_weights), examples(program))


def scaled(module: GraphModule, before: Node, data: Tensor, scale: Tensor, kind: torch.dtype) -> Node:
    """Integers times scales, as many as divide the dimensions of the integers."""
    parts = keep(module, before, "weight_data", data), keep(module, before, "weight_scale", scale)
    return call(before, _CORE_AI.constexpr_blockwise_shift_scale.default, *parts, None, None, kind)


def with_integer_layers(program: ExportedProgram) -> ExportedProgram:
    """The program with its roundings, and its integer weights."""
    return torch.export.export(rewritten(program, spell_roundings), examples(program))


def spell_roundings(module: GraphModule) -> None:
    for node in calls(module, QUANTIZED.quantize_per_tensor.default):
        scale, point = grid(module, node)
        replace(node, call(node, _CORE_AI.quantize.default, node.args[0], scale, torch.int8, point))
    for node in calls(module, QUANTIZED.dequantize_per_tensor.default):
        replace(node, call(node, _CORE_AI.dequantize.default, node.args[0], *grid(module, node)))
    for node in calls(module, QUANTIZED.dequantize_per_channel.default):
        data, factors = (constant(module, of) for of in node.args[:2])
        assert data is not None
        assert factors is not None
        kind = getattr(torch, f"int{bits(node)}")
        replace(node, scaled(module, node, data, column(factors, data), kind))
    prune(module)


def grid(module: GraphModule, node: Node) -> tuple[Node, Node]:
    """Scale and zero point that an operation rounds with, as constants in front of it."""
    scale, point = torch.tensor(node.args[1], dtype=torch.float32), torch.tensor(node.args[2], dtype=torch.int8)
    return keep(module, node, "grid_scale", scale), keep(module, node, "grid_point", point)
