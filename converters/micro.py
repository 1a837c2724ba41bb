"""Models for microcontrollers: integers go in and come out, and every operator is one that TFLM has a kernel for.

TFLM is TensorFlow Lite Micro, which also runs what an Ethos-U leaves to the processor beside it. Importing this loads
torch.
"""

from __future__ import annotations

from math import pi, sqrt
from pathlib import Path

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from lvexport.converters import tflite_sixteen
from lvexport.converters.derived import examples, rewritten
from lvexport.converters.rewrites.graph import ATEN, arguments, call, calls, prune, replace
from lvexport.converters.tflite_integers import write_layers
from lvexport.converters.tflite_sixteen import is_wide

# erf(z) = 1 - (((((a5·t + a4)·t + a3)·t + a2)·t + a1)·t·exp(-z²) for z ≥ 0 and t = 1/(1 + p·z), to 1.5e-7
# (Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26).
_P = 0.3275911
_A = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)
_CUBE = 0.044715  # of GELU's form with tanh (Hendrycks and Gimpel, arXiv 1606.08415)


def write_model(program: ExportedProgram, out: Path) -> None:
    """Write a program with roundings as a ``.tflite`` for microcontrollers.

    Where these are of 8 bits, integers go in and come out; where they are of 16, single precision.
    """
    spelled = torch.export.export(rewritten(program, spell_gelus), examples(program))
    if is_wide(spelled):
        tflite_sixteen.write_layers(spelled, out)
    else:
        write_layers(spelled, out, floats=False)


def spell_gelus(module: GraphModule) -> None:
    """Spell out every GELU, which TFLM has no kernel for, as exactly as single precision can tell."""
    for node in calls(module, ATEN.gelu.default):
        given = arguments(node)
        spell = _with_tanh if given["approximate"] == "tanh" else _with_exp
        replace(node, spell(node, given["self"]))
    prune(module)


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


def _with_tanh(node: Node, x: Node) -> Node:
    """x/2·(1 + tanh(√(2/π)·x·(1 + 0.044715·x²)))."""
    square = call(node, ATEN.mul.Tensor, x, x)
    curve = call(node, ATEN.add.Scalar, call(node, ATEN.mul.Scalar, square, _CUBE), 1.0)
    inner = call(node, ATEN.mul.Scalar, call(node, ATEN.mul.Tensor, x, curve), sqrt(2 / pi))
    gate = call(node, ATEN.add.Scalar, call(node, ATEN.tanh.default, inner), 1.0)
    return call(node, ATEN.mul.Tensor, call(node, ATEN.mul.Scalar, x, 0.5), gate)
