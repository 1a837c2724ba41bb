"""Models for microcontrollers: integers go in and come out, and every operator is one that TFLM has a kernel for.

TFLM is TensorFlow Lite Micro, which also runs what an Ethos-U leaves to the processor beside it. Importing this loads
torch.
"""

from __future__ import annotations

from math import sqrt
from pathlib import Path
from typing import Any

import torch
from ai_edge_litert import schema_py_generated as schema
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from lvexport.converters import tflite_edits as edits
from lvexport.converters import tflite_sixteen
from lvexport.converters.derived import examples, rewritten
from lvexport.converters.quantization.grids import Grid
from lvexport.converters.quantization.settle import is_between_roundings
from lvexport.converters.rewrites.activations import is_tanh_gelu, tanh_gelu
from lvexport.converters.rewrites.graph import ATEN, arguments, call, calls, prune, replace
from lvexport.converters.tflite_integers import write_layers
from lvexport.converters.tflite_sixteen import is_wide

# erf(z) = 1 - (((((a5·t + a4)·t + a3)·t + a2)·t + a1)·t·exp(-z²) for z ≥ 0 and t = 1/(1 + p·z), to 1.5e-7
# (Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26).
_P = 0.3275911
_A = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)


def write_model(program: ExportedProgram, out: Path) -> None:
    """Write a program with roundings as a ``.tflite`` for microcontrollers.

    Where these are of 8 bits, integers go in and come out; where they are of 16, single precision.
    """
    spelled = torch.export.export(rewritten(program, spell_gelus, spell_hard_swishes), examples(program))
    if is_wide(spelled):
        tflite_sixteen.write_layers(spelled, out)
    else:
        write_layers(spelled, out, floats=False, edit=unbound_relus)


def spell_gelus(module: GraphModule) -> None:
    """Spell out every GELU, which TFLM has no kernel for, as exactly as single precision can tell."""
    for node in calls(module, ATEN.gelu.default):
        spell = tanh_gelu if is_tanh_gelu(node) else _with_exp
        replace(node, spell(node, arguments(node)["self"]))
    prune(module)


def spell_hard_swishes(module: GraphModule) -> None:
    """Spell out hard swish where it is in floating point, as x·(relu(x + 3) - relu(x - 3))/6.

    Vela refuses a model with one: it looks at operators before it decides whose they are ("IFM has to be 8bit"). With
    relu6(x + 3), LiteRT's converter would make the operator of it again.
    """
    for node in calls(module, ATEN.hardswish.default):
        x = node.args[0]
        if is_between_roundings(node):
            continue
        above, beyond = (call(node, ATEN.relu.default, call(node, ATEN.add.Scalar, x, by)) for by in (3.0, -3.0))
        gate = call(node, ATEN.mul.Scalar, call(node, ATEN.sub.Tensor, above, beyond), 1 / 6)
        replace(node, call(node, ATEN.mul.Tensor, x, gate))
    prune(module)


def unbound_relus(model: Any) -> None:
    """Make a ReLU of every ReLU6 that goes from one grid to another that ends at 6 by itself.

    TFLM's kernel clips such integers as they are, as if both grids were the same (``Relu6Quantized``); that of ReLU
    takes them from one to the other.
    """
    for graph in model.subgraphs:
        for operator in graph.operators:
            if edits.code(model, operator) == schema.BuiltinOperator.RELU6:
                given, made = (grid(graph.tensors[place]) for place in (operator.inputs[0], operator.outputs[0]))
                if given and made and given != made and ends_by(made, 6.0):
                    operator.opcodeIndex = edits.versioned(model, schema.BuiltinOperator.RELU, 2)


def grid(tensor: Any) -> Grid | None:
    """What a tensor's integers stand for; None where it is in floating point."""
    found = tensor.quantization
    if found is None or found.scale is None:
        return None
    return Grid(float(found.scale[0]), int(found.zeroPoint[0]))


def ends_by(grid: Grid, most: float) -> bool:
    """Whether the largest number on a grid is no more than this, or rounds to it."""
    return (grid.highest - grid.zero_point) * grid.scale < most + grid.scale / 2


def _with_exp(node: Node, x: Node) -> Node:
    """relu(x) - |x|·(1 - erf(|x|/√2))/2."""
    size = call(node, ATEN.abs.default, x)
    slope = call(node, ATEN.add.Scalar, call(node, ATEN.mul.Scalar, size, _P / sqrt(2)), 1.0)
    t = call(node, ATEN.reciprocal.default, slope)
    sum_ = call(node, ATEN.mul.Scalar, t, _A[0] / 2)
    for a in _A[1:]:
        sum_ = call(node, ATEN.mul.Tensor, call(node, ATEN.add.Scalar, sum_, a / 2), t)
    bell = call(node, ATEN.exp.default, call(node, ATEN.mul.Scalar, call(node, ATEN.mul.Tensor, x, x), -0.5))
    tail = call(node, ATEN.mul.Tensor, size, call(node, ATEN.mul.Tensor, sum_, bell))
    return call(node, ATEN.sub.Tensor, call(node, ATEN.relu.default, x), tail)
