"""Sigmoids of integers for XNNPACK, whose kernels have them where ExecuTorch's partitioner leaves them out.

Importing this loads ExecuTorch.
"""

from __future__ import annotations

from typing import Any

from executorch.backends.xnnpack.operators.node_visitor import NodeVisitor, register_node_visitor
from executorch.backends.xnnpack.operators.quant_params import QuantParams
from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS
from executorch.backends.xnnpack.partition.config.generic_node_configs import SigmoidConfig
from executorch.backends.xnnpack.partition.config.xnnpack_config import ConfigPrecisionType
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.backends.xnnpack.serialization.xnnpack_graph_schema import XNNSigmoid, XNode
from executorch.backends.xnnpack.utils.utils import get_input_node


class SigmoidOfIntegers(SigmoidConfig):  # type: ignore[misc]
    """Sigmoids between roundings, with these."""

    def supported_precision_types(self) -> list[ConfigPrecisionType]:
        return [ConfigPrecisionType.FP32, ConfigPrecisionType.STATIC_QUANT]


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


def partitioner() -> XnnpackPartitioner:
    """XNNPACK's partitioner, which takes sigmoids of integers as well."""
    configs = [SigmoidOfIntegers if config is SigmoidConfig else config for config in ALL_PARTITIONER_CONFIGS]
    return XnnpackPartitioner(configs=configs)
