"""What XNNPACK has kernels for and ExecuTorch does not use: sigmoids of integers, conversions, PReLU with slopes that
are computed, and convolutions with weights in half precision.

Importing this loads ExecuTorch.
"""

from __future__ import annotations

from typing import Any

import torch
from executorch.backends.xnnpack._passes.channels_last_tagged_reshape_pass import ChannelsLastTaggedReshapePass
from executorch.backends.xnnpack.operators.node_visitor import NodeVisitor, get_node_visitors, register_node_visitor
from executorch.backends.xnnpack.operators.quant_params import QuantParams
from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS
from executorch.backends.xnnpack.partition.config.generic_node_configs import (
    CatConfig,
    ClampConfig,
    GenericNodePartitionerConfig,
    HardtanhConfig,
    MaxPool2dConfig,
    PermuteConfig,
    ReLUConfig,
    SigmoidConfig,
    SliceCopyConfig,
    ToDimOrderCopyConfig,
    UnsqueezeCopyConfig,
    ViewCopyConfig,
)
from executorch.backends.xnnpack.partition.config.xnnpack_config import ConfigPrecisionType
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.backends.xnnpack.serialization.xnnpack_graph_schema import XNNConvert, XNNPReLU, XNNSigmoid, XNode
from executorch.backends.xnnpack.utils.quant_utils import is_dequant, is_quant
from executorch.backends.xnnpack.utils.utils import get_input_node
from executorch.exir.dialects._ops import ops as exir_ops
from executorch.exir.pass_base import ExportPass
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import GraphModule
from torch.fx.passes.infra.pass_base import PassBase, PassResult

FLOATS = {torch.float16, torch.float32}


@torch.library.custom_op("lvexport::convert", mutates_args=())
def convert(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The same numbers, as near as ``dtype`` has them. Passes cannot take it for a copy."""
    return x.to(dtype, copy=True)


@convert.register_fake
def _(x: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(x, dtype=dtype)


@torch.library.custom_op("lvexport::dynamic_prelu", mutates_args=())
def dynamic_prelu(x: Tensor, slopes: Tensor) -> Tensor:
    """PReLU with one slope a channel. ExecuTorch takes the one of torch apart."""
    return torch._prelu_kernel(x, slopes)


@dynamic_prelu.register_fake
def _(x: Tensor, slopes: Tensor) -> Tensor:
    return torch.empty_like(x)


# What takes from one tensor to another and what clips (the checks of scale and zero point in XNNPACK's src/subgraph).
_OF_ONE_GRID = (
    CatConfig,
    ClampConfig,
    HardtanhConfig,
    MaxPool2dConfig,
    PermuteConfig,
    ReLUConfig,
    ToDimOrderCopyConfig,
    UnsqueezeCopyConfig,
    ViewCopyConfig,
)

CONVERT = exir_ops.edge.lvexport.convert.default
READ = exir_ops.edge.quantized_decomposed.dequantize_per_tensor.default
PERMUTE = exir_ops.edge.aten.permute_copy.default
TO_COPY = exir_ops.edge.aten._to_copy.default
COPY = exir_ops.edge.dim_order_ops._to_dim_order_copy.default


class SigmoidOfIntegers(SigmoidConfig):  # type: ignore[misc]
    """Sigmoids between roundings, with these."""

    def supported_precision_types(self) -> list[ConfigPrecisionType]:
        return [ConfigPrecisionType.FP32, ConfigPrecisionType.STATIC_QUANT]


class OfOneGrid(GenericNodePartitionerConfig):  # type: ignore[misc]
    """An operation whose kernel of integers gives them on the grid that it is given them on.

    ExecuTorch takes whatever stands between roundings for such, and writes programs that XNNPACK refuses to load.
    """

    def get_node_and_deps(self, node: Any, ep: Any) -> list[Any]:
        grids = {argument.args[1:] for argument in node.all_input_nodes if is_dequant(argument)}
        grids |= {user.args[1:] for user in node.users if is_quant(user)}
        if len(grids) > 1:
            return [node]
        found: list[Any] = super().get_node_and_deps(node, ep)
        return found


class SliceOfOneGrid(OfOneGrid, SliceCopyConfig):  # type: ignore[misc]
    """Slices, in floating point where the grids before and behind differ: ExecuTorch leaves those to its own kernel."""

    def check_constraints(self, node: Any, ep: Any) -> bool:
        return bool(super().check_constraints(node, ep) or self._is_common(node, ep))

    def _is_common(self, node: Any, ep: Any) -> bool:
        """Whether ExecuTorch would take it but for the grids."""
        step = node.args[4] if len(node.args) > 4 else 1
        whole = step == 1 and 0 not in (*node.args[0].meta["val"].shape, *node.meta["val"].shape)
        return bool(whole and self.check_common_constraints(node, ep))


class Conversion(GenericNodePartitionerConfig):  # type: ignore[misc]
    """Conversions between half and single precision."""

    target_name = "convert.default"

    def supported_precision_types(self) -> list[ConfigPrecisionType]:
        return [ConfigPrecisionType.FP32]


class DynamicPReLU(GenericNodePartitionerConfig):  # type: ignore[misc]
    """PReLU whose slopes another operation gives."""

    target_name = "dynamic_prelu.default"

    def supported_precision_types(self) -> list[ConfigPrecisionType]:
        return [ConfigPrecisionType.FP32]


@register_node_visitor
class Sigmoid(NodeVisitor):  # type: ignore[misc]
    """Writes a sigmoid with the grids of what it is given and gives, where these are rounded."""

    target = "aten.sigmoid.default"

    def define_node(self, node: Any, xnn_graph: Any, vals_to_ids: dict[Any, int], debug_handle: int) -> None:
        given = get_input_node(node, 0)
        before = QuantParams.from_inputs(given, self._exported_program)
        self.define_tensor(given, xnn_graph, vals_to_ids, quant_params=before)
        self.define_tensor(node, xnn_graph, vals_to_ids, quant_params=QuantParams.from_outputs(node))
        call = XNNSigmoid(input_id=vals_to_ids[given], output_id=vals_to_ids[node], flags=0)
        xnn_graph.xnodes.append(XNode(xnode_union=call, debug_handle=debug_handle))


@register_node_visitor
class Convert(NodeVisitor):  # type: ignore[misc]
    """Writes a conversion."""

    target = "lvexport.convert.default"

    def define_node(self, node: Any, xnn_graph: Any, vals_to_ids: dict[Any, int], debug_handle: int) -> None:
        given = get_input_node(node, 0)
        self.define_tensor(given, xnn_graph, vals_to_ids)
        self.define_tensor(node, xnn_graph, vals_to_ids)
        call = XNNConvert(input_id=vals_to_ids[given], output_id=vals_to_ids[node], flags=0)
        xnn_graph.xnodes.append(XNode(xnode_union=call, debug_handle=debug_handle))


@register_node_visitor
class Slopes(NodeVisitor):  # type: ignore[misc]
    """Writes a PReLU with the slopes that it is given."""

    target = "lvexport.dynamic_prelu.default"

    def define_node(self, node: Any, xnn_graph: Any, vals_to_ids: dict[Any, int], debug_handle: int) -> None:
        self.define_nodes_tensor_inputs_outputs(node, xnn_graph, vals_to_ids)
        given = [vals_to_ids[get_input_node(node, i)] for i in range(2)]
        call = XNNPReLU(*given, output_id=vals_to_ids[node], flags=0)
        xnn_graph.xnodes.append(XNode(xnode_union=call, debug_handle=debug_handle))


_WRITERS = get_node_visitors(None, {}, None)  # their modules have no names for them
_Convolution, _Permute, _Layout = (
    type(_WRITERS[name]) for name in ("aten.convolution.default", "aten.permute_copy.default", "aten._to_copy.default")
)
_IN_ORDER = {  # a permutation of a map, and the change of layout behind it after which all lies as it lay before
    (True, (0, 2, 3, 1)): torch.contiguous_format,
    (False, (0, 3, 1, 2)): torch.channels_last,
}


@register_node_visitor
class Permute(_Permute):  # type: ignore[misc, valid-type]
    """Writes no permutation where what takes it reads the numbers in the order in which they lay before."""

    def define_node(self, node: Any, xnn_graph: Any, vals_to_ids: dict[Any, int], debug_handle: int) -> None:
        if not _is_in_order(node, self.external_ids):
            super().define_node(node, xnn_graph, vals_to_ids, debug_handle)


@register_node_visitor
class Layout(_Layout):  # type: ignore[misc, valid-type]
    """Writes a change between maps with channels first and last, but for those that only undo a permutation."""

    def define_node(self, node: Any, xnn_graph: Any, vals_to_ids: dict[Any, int], debug_handle: int) -> None:
        given = node.args[0]
        if given.target is PERMUTE and _is_in_order(given, self.external_ids):
            self.define_tensor(given.args[0], xnn_graph, vals_to_ids)  # which may be what the delegate is given
            vals_to_ids[node] = vals_to_ids[given.args[0]]
        else:
            super().define_node(node, xnn_graph, vals_to_ids, debug_handle)


def _is_in_order(permute: Any, external: Any) -> bool:
    """Whether a permutation and the change of layout behind it move no numbers, and nothing but such takes it."""
    source, order = permute.args[0], tuple(axis % len(permute.args[1]) for axis in permute.args[1])
    is_last = bool(permute.meta.get(ChannelsLastTaggedReshapePass.XNN_NHWC_NODE, False))
    wanted = _IN_ORDER.get((is_last, order))
    return wanted is not None and not is_dequant(source) and all(_is_layout(u, wanted, external) for u in permute.users)


def _is_layout(node: Any, wanted: torch.memory_format, external: Any) -> bool:
    return (
        node.target is TO_COPY
        and node.kwargs.get("memory_format", torch.contiguous_format) is wanted
        and node not in external
    )


@register_node_visitor
class Convolution(_Convolution):  # type: ignore[misc, valid-type]
    """Writes a convolution with weights and biases as they are, where ExecuTorch writes those in half precision as
    single: the same numbers in twice the bytes. XNNPACK's transposed convolutions take no others.
    """

    transposed = False

    def define_node(self, node: Any, xnn_graph: Any, vals_to_ids: dict[Any, int], debug_handle: int) -> None:
        self.transposed = bool(node.args[6])
        super().define_node(node, xnn_graph, vals_to_ids, debug_handle)

    def define_tensor(self, tensor: Any, *args: Any, force_fp32: bool = False, **kwargs: Any) -> None:
        super().define_tensor(tensor, *args, force_fp32=force_fp32 and self.transposed, **kwargs)


class NamedConversions(ExportPass):  # type: ignore[misc]
    """Puts :data:`CONVERT` in place of every copy between half and single precision that is no more than that.

    ExecuTorch's passes for XNNPACK take any ``_to_copy`` for a change of layout, and drop those that are none.
    """

    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
        dtype = kwargs.get("dtype")
        if op is not COPY or {dtype, args[0].data.dtype} != FLOATS or not _keeps_order(args[0], kwargs):
            return super().call_operator(op, args, kwargs, meta)
        return super().call_operator(CONVERT, (args[0], dtype), {}, meta)


class OwnReading(PassBase):
    """Makes integers floating-point numbers anew for each operation that takes them, once all are taken apart.

    ExecuTorch's passes give one in another layout to all that share it, also to what has this one's already.
    """

    def call(self, graph_module: GraphModule) -> PassResult:
        for node in list(graph_module.graph.nodes):
            if node.target is not READ:
                continue
            for user in list(node.users)[1:]:
                with graph_module.graph.inserting_before(user):
                    user.replace_input_with(node, graph_module.graph.node_copy(node))
        graph_module.recompile()
        return PassResult(graph_module, True)


class SpelledConversions(ExportPass):  # type: ignore[misc]
    """Conversions that stayed outside of the delegate, as the runtime has them."""

    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
        if op is not CONVERT:
            return super().call_operator(op, args, kwargs, meta)
        x, dtype = args
        return super().call_operator(COPY, (x,), {"dtype": dtype, "dim_order": list(x.data.dim_order())}, meta)


def _keeps_order(x: Any, kwargs: Any) -> bool:
    """Whether a copy of x leaves the order in which its dimensions lie in memory."""
    order = kwargs.get("dim_order")
    return order is None or tuple(order) == tuple(x.data.dim_order())


def name_dynamic_prelus(program: ExportedProgram) -> None:
    """Have the program name PReLU with slopes of a map's own as the operation that is not taken apart."""
    for node in program.graph.find_nodes(op="call_function", target=torch.ops.aten._prelu_kernel.default):
        node.target = torch.ops.lvexport.dynamic_prelu.default


def partitioner() -> XnnpackPartitioner:
    """XNNPACK's partitioner, which takes these as well."""
    replaced = {SigmoidConfig: SigmoidOfIntegers, SliceCopyConfig: SliceOfOneGrid}
    ours = [replaced.get(config, config) for config in ALL_PARTITIONER_CONFIGS]
    careful = [type(c.__name__, (OfOneGrid, c), {}) if c in _OF_ONE_GRID else c for c in ours]
    return XnnpackPartitioner(configs=[*careful, Conversion, DynamicPReLU])
