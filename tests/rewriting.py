"""Networks rewritten, and what ExecuTorch computes of them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.fx import GraphModule

from lvexport.converters.rewrites import apply


def rewritten(model: nn.Module, *inputs: Tensor, names: list[str]) -> GraphModule:
    """The graph after the rewrites, which were proved to change nothing."""
    return apply.rewritten(torch.export.export(model.eval(), inputs), names)[0]


def operations(module: GraphModule) -> Counter[str]:
    called = (n.target for n in module.graph.nodes if n.op == "call_function")
    return Counter(str(target).split(".")[1] for target in called if isinstance(target, OpOverload))


def computed_by_xnnpack(module: GraphModule, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> tuple[Counter[str], Tensor]:
    """The operations in the delegate, and what the program computes in ExecuTorch."""
    from executorch.backends.xnnpack import xnnpack_preprocess
    from executorch.runtime import Runtime

    from lvexport.converters import executorch

    counted: Counter[str] = Counter()
    write = xnnpack_preprocess.serialize_xnnpack_binary

    def counting(graph: Any, *rest: Any) -> Any:
        counted.update(type(node.xnode_union).__name__ for node in graph.xnodes)
        return write(graph, *rest)

    monkeypatch.setattr(xnnpack_preprocess, "serialize_xnnpack_binary", counting)
    edge, _ = executorch.lowered(torch.export.export(module, (x,)))
    made = edge.to_executorch()  # its buffer is read until all is computed
    program = Runtime.get().load_program(made.buffer)
    method = program.load_method("forward")
    assert method is not None
    (found,) = method.execute([x])
    return counted, torch.Tensor(found).clone()
