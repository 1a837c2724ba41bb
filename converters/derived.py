"""Programs derived from the captured one, for converters that need it in another form. Importing this loads torch."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from lvexport.converters.contract import Normalisation
from lvexport.converters.rewrites import axes
from lvexport.converters.rewrites.activations import (
    is_tanh_gelu,
    spell_hard_sigmoids,
    spell_tanh_gelus,
    spell_tanh_gelus_by_powers,
)
from lvexport.converters.rewrites.attention import spell_odd_attention
from lvexport.converters.rewrites.graph import ATEN, arguments, call, calls, is_call, replace, say, shape
from lvexport.converters.rewrites.norms import spell_fused_rms_norms, spell_rms_norms
from lvexport.converters.rewrites.resizes import RESIZES, spell_nearest, spell_resizes
from lvexport.converters.rewrites.views import limit_views

_MAX_POOLS = (ATEN.max_pool1d.default, ATEN.max_pool2d.default, ATEN.max_pool3d.default)

_CORE_ML_DIMENSIONS = 5  # coremltools refuses programs with more (converters/mil/mil/program.py)


def for_xnnpack(program: ExportedProgram) -> ExportedProgram:
    """The same program in the form in which ExecuTorch computes all of it right."""
    resizes = (spell_resizes, spell_nearest)
    spelled = (*resizes, flatten_softmax, spell_group_norms, spell_hard_sigmoids, spell_tanh_gelus)
    return torch.export.export(rewritten(program, *spelled), examples(program))


def for_core_ml(program: ExportedProgram) -> ExportedProgram:
    """The same program in the form that coremltools takes; itself where it is in that form."""
    if not any(map(_in_the_way_of_core_ml, program.graph.nodes)):
        return program
    spelled = (spell_resizes, spell_tanh_gelus_by_powers, spell_rms_norms, name_strides)
    limited = rewritten(program, *spelled, lambda module: limit_views(module, _CORE_ML_DIMENSIONS))
    return torch.export.export(limited, examples(program))


def _in_the_way_of_core_ml(node: torch.fx.Node) -> bool:
    if is_call(node, *axes.ORDERING):
        return len(shape(node)) > _CORE_ML_DIMENSIONS
    return is_call(node, *RESIZES, ATEN.rms_norm.default) or is_tanh_gelu(node) or has_no_stride(node)


def has_no_stride(node: torch.fx.Node) -> bool:
    """Whether a node is a pooling whose stride is its kernel's size, for it is not said."""
    return is_call(node, *_MAX_POOLS) and not arguments(node)["stride"]


def name_strides(module: torch.fx.GraphModule) -> None:
    """Say the strides of poolings, without which coremltools takes none (``max_pool1d`` in its torch/ops.py)."""
    for node in filter(has_no_stride, calls(module, *_MAX_POOLS)):
        say(node, stride=arguments(node)["kernel_size"])


def for_onnx(program: ExportedProgram) -> ExportedProgram:
    """The same program in the form that torch's exporter to ONNX takes; itself where it is in that form."""
    attention = program.graph.find_nodes(op="call_function", target=torch.ops.aten.scaled_dot_product_attention.default)
    norms = program.graph.find_nodes(op="call_function", target=torch.ops.aten.rms_norm.default)
    if not norms and all(len(node.meta["val"].shape) == 4 for node in attention):
        return program
    return torch.export.export(rewritten(program, spell_odd_attention, spell_fused_rms_norms), examples(program))


def for_core_ai(program: ExportedProgram) -> ExportedProgram:
    """The same program in the form that coreai-torch converts right."""
    return torch.export.export(rewritten(program, count_padding, spell_group_norms), examples(program))


def rewritten(program: ExportedProgram, *rewrites: Callable[[torch.fx.GraphModule], None]) -> torch.fx.GraphModule:
    """The program as a module, rewritten in place by each in turn."""
    module = program.module()
    assert isinstance(module, torch.fx.GraphModule)
    for rewrite in rewrites:
        rewrite(module)
    module.recompile()
    return module


def constant(module: torch.fx.GraphModule, node: torch.fx.Node | None) -> Any:
    """The parameter or buffer that a node stands for."""
    return None if node is None else operator.attrgetter(str(node.target))(module)


def attach(module: torch.fx.GraphModule, name: str, value: Tensor) -> str:
    """Keep a tensor on the module; the name that it has there."""
    module.register_buffer(name, value.detach())
    return name


def follow(node: torch.fx.Node, target: Callable[..., Any], *more: Any, spared: Collection[torch.fx.Node] = ()) -> None:
    """Put ``target(node, *more)`` behind a node, and in its place for all that use it but those that are spared."""
    with node.graph.inserting_after(node):
        behind = node.graph.call_function(target, (node, *more))
    node.replace_all_uses_with(behind, delete_user_cb=lambda user: user is not behind and user not in spared)


def spell_group_norms(module: torch.fx.GraphModule) -> None:
    """Spell out every group normalisation, in two passes and sums of sums.

    ExecuTorch's portable kernel takes the variance as E[x²] - E[x]² from plain running sums in single precision
    (kernels/portable/cpu/op_native_group_norm.cpp): over the 100,000 numbers of a map that leaves 4 digits.
    """
    for node in module.graph.find_nodes(op="call_function", target=torch.ops.aten.group_norm.default):
        with module.graph.inserting_before(node):
            spelled = _spelled_group_norm(module.graph, tuple(node.meta["val"].shape), *node.args)
        node.replace_all_uses_with(spelled)
        module.graph.erase_node(node)


def _spelled_group_norm(
    graph: torch.fx.Graph,
    shape: tuple[int, ...],
    x: torch.fx.Node,
    groups: int,
    weight: torch.fx.Node | None = None,
    bias: torch.fx.Node | None = None,
    eps: float = 1e-5,
    cudnn: bool = True,
) -> torch.fx.Node:
    """The nodes that stand for one group normalisation of ``shape``, (N, C, …); the last of them."""
    aten, call = torch.ops.aten, graph.call_function
    n, channels, *rest = shape

    def mean(of: torch.fx.Node) -> torch.fx.Node:
        return call(aten.mean.dim, (call(aten.mean.dim, (of, [3], True)), [2], True))

    grouped = call(aten.reshape.default, (x, [n, groups, channels // groups, -1]))
    centred = call(aten.sub.Tensor, (grouped, mean(grouped)))
    variance = mean(call(aten.mul.Tensor, (centred, centred)))
    scaled = call(aten.mul.Tensor, (centred, call(aten.rsqrt.default, (call(aten.add.Scalar, (variance, eps)),))))
    y = call(aten.reshape.default, (scaled, list(shape)))
    for operation, factor in ((aten.mul.Tensor, weight), (aten.add.Tensor, bias)):
        if factor is not None:
            y = call(operation, (y, call(aten.reshape.default, (factor, [1, channels, *(1 for _ in rest)]))))
    return y


def flatten_softmax(module: torch.fx.GraphModule) -> None:
    """Take every softmax over the last dimension, and of four-dimensional numbers over a matrix.

    XNNPACK has no other softmax. ExecuTorch 1.5.1 keeps what follows a convolution in channels-last order, and its pass
    that does so (backends/xnnpack/_passes/channels_last_tagged_reshape_pass.py) leaves softmax out of the operators
    that need the original order: the delegate then normalises over channels in place of the last dimension. A reshape
    restores the order, as it did for other ranks in pytorch/executorch pull request 12520.
    """
    aten = torch.ops.aten
    for node in calls(module, aten.softmax.int):
        x, rank = arguments(node)["self"], len(shape(node))
        axis = arguments(node)["dim"] % max(rank, 1)
        if rank and axis != rank - 1:
            turned = call(node, aten.transpose.int, x, axis, -1)
            result = call(node, aten.transpose.int, _softmax_of_rows(node, turned), axis, -1)
        elif rank == 4:
            result = _softmax_of_rows(node, x)
        else:
            continue
        replace(node, result)


def _softmax_of_rows(node: torch.fx.Node, x: torch.fx.Node) -> torch.fx.Node:
    """A softmax over the last dimension of ``x``, of the kind that a node is."""
    given, sizes = arguments(node), shape(x)
    rows = axes.reshape(node, x, (-1, sizes[-1])) if len(sizes) == 4 else x
    return axes.reshape(node, call(node, node.target, rows, -1, given["dtype"]), sizes)  # type: ignore[arg-type]


def count_padding(module: torch.fx.GraphModule) -> None:
    """Take every average pooling that leaves padding out of its counts as one that counts it, times a constant.

    coreai-torch 0.4.3 counts it whatever it is told (``replace_avg_pool2d`` in coreai_torch/_aten_to_core.py).
    """
    for node in module.graph.find_nodes(op="call_function", target=torch.ops.aten.avg_pool2d.default):
        given: Any = tuple(arguments(node).values())
        x, kernel, stride, padding, ceil_mode, counts, divisor = given
        if counts or ceil_mode or divisor is not None or not any(padding):
            continue
        ones = torch.ones(x.meta["val"].shape[-2:], dtype=node.meta["val"].dtype)[None, None]
        factor = torch.nn.functional.avg_pool2d(ones, kernel, stride or None, padding).reciprocal()
        with module.graph.inserting_before(node):
            counts_node = module.graph.get_attr(attach(module, f"{node.name}_counts", factor))
        node.args = (x, kernel, stride, padding)
        follow(node, torch.ops.aten.mul.Tensor, counts_node)


class _PictureClassifier(nn.Module):
    """A classifier on pixels from which the mean was taken, giving probabilities in place of logits."""

    std: Tensor

    def __init__(self, module: nn.Module, std: tuple[float, float, float]) -> None:
        super().__init__()
        self.module = module
        self.unit = set(std) == {1.0}
        self.register_buffer("std", torch.tensor(std).reshape(1, 3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        logits = self.module(image if self.unit else image / self.std)
        return torch.softmax(logits, dim=-1)


def picture_classifier(program: ExportedProgram, normalisation: Normalisation) -> ExportedProgram:
    """The program with the division by ``std`` before it and a softmax behind it."""
    std = normalisation.in_order(normalisation.std)
    return torch.export.export(_PictureClassifier(program.module(), std), examples(program))


def examples(program: ExportedProgram) -> tuple[Tensor, ...]:
    """The inputs that the program was captured with."""
    args, _ = program.example_inputs or ((), {})
    return tuple(args)
