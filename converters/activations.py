"""Activations rounded to 8 bits as they come, over the range that each has then. Importing this loads torch.

Runtimes that compute layers in integers do so to what their layers take. Here it is done in the program, in floating
point, to know what it costs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import GraphModule

from lvexport.converters.compression import is_product, weights
from lvexport.converters.contract import Integers
from lvexport.converters.derived import rewritten

_STEPS = 255  # between the ends of a range, with 8 bits


def rounded(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Numbers rounded to whole steps of the range, with zero in it, that they have together over ``axes``."""
    low, high = x.amin(axes, keepdim=True).clamp(max=0), x.amax(axes, keepdim=True).clamp(min=0)
    step = (high - low) / _STEPS
    step = torch.where(step > 0, step, 1.0)
    zero = (low / step).round()
    return ((x / step).round().clamp(zero, zero + _STEPS)) * step


def round_activations(module: GraphModule, integers: Integers) -> None:
    """Round what every layer with rounded weights takes: maps over an image, rows of a linear layer each by itself.

    Where a convolution is computed as a linear layer, the channels at each place are such a row.
    """
    for layer in [user for weight in weights(module) for user in weight.users]:
        axes: tuple[int, ...] = (-1,)
        if layer.target is torch.ops.aten.conv2d.default:
            axes = (1,) if integers.kernels is not None and is_product(layer) else (1, 2, 3)
        with module.graph.inserting_before(layer):
            layer.update_arg(0, module.graph.call_function(rounded, (layer.args[0], axes)))


def simulated(program: ExportedProgram, integers: Integers) -> GraphModule:
    """A program with weights that were rounded so, as a module that rounds activations too."""
    return rewritten(program, lambda module: round_activations(module, integers))
