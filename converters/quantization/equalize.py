"""Channels brought to ranges that one grid fits, the function staying the same. Importing this loads torch.

A tensor has one grid, so a channel a thousand times smaller than the largest is rounded to nothing. Where channels may
be scaled (``channels``), the factor √(range / weights) shares the spread between the activations and the weights behind
them, as SmoothQuant does behind layer normalisation (Xiao et al., 2023, equation 4 at α = 1/2) and cross-layer
equalisation between layers (Nagel et al., 2019, equation 11). Weights depend on the factors of both sides, so that is
repeated until nothing changes. Each round halves what is left, so there is one end to it, and it undoes whatever
scaling of that kind a checkpoint came with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from lvexport.converters.quantization.channels import Channels, channels
from lvexport.converters.quantization.statistics import Batch, watch
from lvexport.converters.rewrites import layers
from lvexport.converters.rewrites.graph import constant, is_tensor, keep, wide

_LEAST = 1e-12  # magnitudes below are nothing
# A factor counts in the weights of layers that give and that take it, and so in the next ones' factors, half as much.
_ROUNDS, _SETTLED = 30, 0.01


def equalize(module: GraphModule, batches: Sequence[Batch]) -> int:
    """Scale channels of a program in place. How many classes of channels were scaled."""
    found = channels(module)
    free = found.free()
    if not bool(free.any()):
        return 0
    reach, inverse = _ranges(module, found, batches, len(free)), _inverses(found, len(free))
    magnitudes = _magnitudes(module, found)
    scale, known = torch.ones_like(reach), torch.zeros_like(free)
    for _ in range(_ROUNDS):
        step, known = _step(reach / scale, _columns(magnitudes, found, scale), inverse, free)
        scale = scale * step
        if float(step.log().abs().max()) < _SETTLED:
            break
    _apply(module, found, scale)
    return int(known.sum())


def _inverses(found: Channels, count: int) -> Tensor:
    """(classes,): the class whose factor is a class's inverse, which no name need be of."""
    inverse = torch.arange(count)
    inverse[found.classes], inverse[found.inverses] = found.inverses, found.classes
    named = torch.zeros(count, dtype=torch.bool)
    named[found.classes] = True
    return torch.where(named & named[inverse], inverse, -1)


def _step(reach: Tensor, columns: Tensor, inverse: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
    """What each class is to be divided by, and which classes have numbers to tell that by."""
    paired = inverse >= 0
    # Of queries and keys, one is to the other what weights are to activations.
    columns = torch.where(paired, torch.maximum(columns, reach[inverse]), columns)
    known = free & (reach > _LEAST) & (columns > _LEAST)
    known &= known[inverse] | ~paired
    scale = torch.where(known, (reach / columns.clamp_min(_LEAST)).sqrt(), 1.0)
    return torch.where(paired, (scale / scale[inverse]).sqrt(), scale), known


def _ranges(module: GraphModule, found: Channels, batches: Sequence[Batch], count: int) -> Tensor:
    """The largest magnitude in each class of what layers are given and give."""
    reach = torch.zeros(count, dtype=torch.double)
    given = {node.args[0] for node in found.inputs} | set(found.outputs)
    nodes = [node for node in given if isinstance(node, Node) and node in found.tensors]

    def show(node: Node, tensor: Tensor) -> None:
        names = found.classes[found.tensors[node].reshape(-1)]
        reach.scatter_reduce_(0, names, tensor.detach().double().abs().reshape(-1), "amax")

    watch(module, nodes, batches, show)
    return reach


def _magnitudes(module: GraphModule, found: Channels) -> dict[Node, Tensor]:
    """Of each layer's weight, (groups, outputs of a group, inputs of a group): the largest of its places."""
    magnitudes = {}
    for layer in found.inputs:
        weight, _ = layers.numbers(module, layer)
        groups = layers.group_count(layer)
        magnitudes[layer] = weight.reshape(groups, len(weight) // groups, weight.shape[1], -1).abs().amax(3)
    return magnitudes


def _columns(magnitudes: Mapping[Node, Tensor], found: Channels, scale: Tensor) -> Tensor:
    """The largest magnitude in each class of the weights that multiply it, once all classes are scaled so far."""
    columns = torch.zeros_like(scale)
    for layer, names in found.inputs.items():
        grouped = magnitudes[layer]
        given = grouped / scale[found.classes[found.outputs[layer]]].reshape(*grouped.shape[:2], 1)
        largest = given.amax(1).reshape(-1) * scale[found.classes[names]]
        columns.scatter_reduce_(0, found.classes[names], largest, "amax")
    return columns


def _apply(module: GraphModule, found: Channels, scale: Tensor) -> None:
    for layer, names in found.outputs.items():
        factor = scale[found.classes[names]]
        if bool((factor != 1).any()):
            layers.transform_outputs(module, layer, 1 / factor)
    for layer, names in found.inputs.items():
        factor = scale[found.classes[names]]
        if bool((factor != 1).any()):
            layers.transform_inputs(module, layer, factor, torch.zeros_like(factor))
    for node, names in found.constants.items():
        factor = scale[found.classes[names]]
        value = constant(module, node)
        if value is not None and is_tensor(node) and bool((factor != 1).any()):
            scaled = (wide(value) / factor).to(value.dtype)
            first = next(iter(node.users))
            node.replace_all_uses_with(keep(module, first, f"{node.target}_scaled".replace(".", "_"), scaled))
    module.recompile()
