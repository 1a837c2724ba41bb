"""Passes of ExecuTorch that change nothing, which trace a whole program anew all the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor
from torch.fx import Graph, GraphModule, Node, map_arg
from torch.fx.passes.infra.pass_base import PassResult

Form = list[tuple[Any, ...]]


@contextmanager
def only_where_needed() -> Iterator[None]:
    """Leave out, in this block, what traces a program that has just been traced and was not changed since.

    Most passes look for something, change the graph where they find it, and then have it traced for the sake of what
    nodes know of their tensors (ExecuTorch 1.5, ``exir/pass_base.py``). Where they find nothing that gives the same
    graph again. It is an eighth of the conversion of a network whose layers round activations as they come.
    """
    from executorch.exir.pass_base import ExportPass

    traced: WeakKeyDictionary[Graph, Form] = WeakKeyDictionary()
    always = ExportPass.call

    def call(self: ExportPass, module: GraphModule) -> PassResult:
        known = traced.get(module.graph)
        if known is not None and known == form(module.graph) and only_traces(type(self), ExportPass):
            return PassResult(module, False)
        result: PassResult = always(self, module)
        made = result.graph_module.graph
        if (known := form(made)) is not None:
            traced[made] = known
        return result

    ExportPass.call = call
    try:
        yield
    finally:
        ExportPass.call = always


def only_traces(kind: type, base: type) -> bool:
    """Whether a pass changes nothing while it traces: it has all that is called then from the class of all passes."""
    called = [name for name in dir(base) if name.startswith("call_") or name in {"placeholder", "output", "inputs"}]
    return all(getattr(kind, name) is getattr(base, name) for name in called)


def form(graph: Graph) -> Form | None:
    """All that a graph computes: two with the same form are the same but for names. None where parts lie elsewhere."""
    places = {node: place for place, node in enumerate(graph.nodes)}
    if any(node.op == "get_attr" for node in places):
        return None
    return [
        (what(node), *(map_arg(given, lambda n: (places[n],)) for given in (node.args, node.kwargs))) for node in places
    ]


def what(node: Node) -> Any:
    """The operation of a node; of an input, what is known of its tensor."""
    if node.op != "placeholder":
        return node.target
    value = node.meta.get("val")
    return str(value), value.stride() if isinstance(value, Tensor) else ()
