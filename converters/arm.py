"""Programs with roundings in the form that ExecuTorch's backend for Arm takes. Importing this loads torch."""

from __future__ import annotations

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from lvexport.converters.derived import examples, rewritten
from lvexport.converters.quantization.forms import flatten_layers, own_reading
from lvexport.converters.quantization.grids import QUANTIZED
from lvexport.converters.rewrites import layers
from lvexport.converters.rewrites.graph import ATEN, call, calls, constant, is_call, keep, prune

_READS = (QUANTIZED.dequantize_per_tensor.default, QUANTIZED.dequantize_per_channel.default)
_ROUNDS = (QUANTIZED.quantize_per_tensor.default,)
_LEAST, _MOST = -(2**31), 2**31 - 1


def for_arm(program: ExportedProgram) -> ExportedProgram:
    """Integer biases, and a mark on every operation between roundings.

    The partitioner takes what Arm's own quantizer marked, and of that only what is given integers alone, biases
    included (executorch/backends/arm/operator_support, ``CheckArmQuantized`` and ``CheckProperQuantization``).
    """
    module = rewritten(program, flatten_layers, own_reading, integer_biases)
    made = torch.export.export(module, examples(program))
    mark(made)
    return made


def integer_biases(module: GraphModule) -> None:
    """Biases as 32-bit integers in steps of the scales of input and weight, as the accelerator adds them."""
    for node in calls(module, ATEN.conv2d.default, ATEN.linear.default):
        given, weight, *rest = node.args
        bias = constant(module, rest[0]) if rest else None
        if bias is None or not is_call(given, _READS[0]) or not is_call(weight, _READS[1]):
            continue
        assert isinstance(given, Node)
        assert isinstance(weight, Node)
        scales = constant(module, weight.args[1])
        assert scales is not None
        steps = scales.double() * float(given.args[1])  # type: ignore[arg-type]
        integers = (bias.double() / steps).round().clamp(_LEAST, _MOST).to(torch.int32)
        kept = (("integers", integers), ("scales", steps.float()), ("zeros", torch.zeros_like(integers).long()))
        given_to = [keep(module, node, f"{node.name}_bias_{what}", tensor) for what, tensor in kept]
        node.update_arg(2, call(node, _READS[1], *given_to, 0, _LEAST, _MOST, torch.int32))
    prune(module)


def mark(program: ExportedProgram) -> None:
    """Mark, in place, the operations that are given integers and whose results are rounded."""
    from executorch.backends.arm.common.annotation_meta import ArmAnnotationInfo

    marked: set[Node] = set()
    for node in program.graph.nodes:
        if node.op != "call_function" or is_call(node, *_READS, *_ROUNDS) or not node.all_input_nodes:
            continue
        if given_integers(node, marked) and makes_integers(node):
            marked.add(node)
            info = {ArmAnnotationInfo.CUSTOM_META_KEY: ArmAnnotationInfo(quantized=True)}
            node.meta["custom"] = node.meta.get("custom", {}) | info


def given_integers(node: Node, marked: set[Node]) -> bool:
    """Whether all that an operation takes is integers, or what the layer makes that an activation becomes part of."""
    fused = is_call(node, *layers.CLIPS)
    return all(is_call(source, *_READS) or (fused and source in marked) for source in node.all_input_nodes)


def makes_integers(node: Node) -> bool:
    """Whether all that takes a result rounds it, the activation of a layer between the two aside."""
    users = list(node.users)
    if len(users) == 1 and is_call(users[0], *layers.CLIPS) and not is_call(node, *layers.CLIPS):
        users = list(users[0].users)
    return all(is_call(user, *_ROUNDS) for user in users)
