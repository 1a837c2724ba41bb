"""What a program's tensors hold while it runs over calibration inputs. Importing this loads torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from lvexport.converters.quantization.observers import BINS, Seen

Batch = Sequence[Tensor]  # one input of the program


class _Watching(Interpreter):
    """Runs a program and shows what some of its nodes give."""

    def __init__(self, module: GraphModule, nodes: Iterable[Node], show: Callable[[Node, Tensor], None]) -> None:
        super().__init__(module)
        self.nodes = frozenset(nodes)
        self.show = show

    def run_node(self, n: Node) -> Any:
        found = super().run_node(n)
        if n in self.nodes:
            self.show(n, found)
        return found


@torch.no_grad()
def watch(
    module: GraphModule, nodes: Iterable[Node], batches: Iterable[Batch], show: Callable[[Node, Tensor], None]
) -> None:
    """Run a program over inputs and hand what the nodes give, one after the other, to ``show``."""
    watching = _Watching(module, nodes, show)
    for batch in batches:
        watching.run(*batch)


def extremes(module: GraphModule, nodes: Iterable[Node], batches: Iterable[Batch]) -> dict[Node, tuple[float, float]]:
    """The smallest and the largest number of each node."""
    found: dict[Node, tuple[float, float]] = {}

    def show(node: Node, tensor: Tensor) -> None:
        low, high = (float(bound) for bound in torch.aminmax(tensor))
        before = found.get(node, (low, high))
        found[node] = min(low, before[0]), max(high, before[1])

    watch(module, nodes, batches, show)
    return found


def histograms(module: GraphModule, nodes: Sequence[Node], batches: Sequence[Batch]) -> dict[Node, Seen]:
    """The distribution of each node's numbers, in two runs: the first for what is between."""
    bounds = extremes(module, nodes, batches)
    counts = {node: torch.zeros(BINS, dtype=torch.double) for node in nodes}

    def show(node: Node, tensor: Tensor) -> None:
        counts[node] += torch.histc(tensor.float(), BINS, *bounds[node]).double()

    watch(module, nodes, batches, show)
    return {node: Seen(*bounds[node], counts[node]) for node in nodes}


def channel_extremes(
    module: GraphModule, axes: dict[Node, int], batches: Iterable[Batch]
) -> dict[Node, tuple[Tensor, Tensor]]:
    """The smallest and the largest number of every channel, ``axes`` saying where each node has its channels."""
    found: dict[Node, tuple[Tensor, Tensor]] = {}

    def show(node: Node, tensor: Tensor) -> None:
        flat = tensor.movedim(axes[node], 0).flatten(1).double()
        low, high = flat.amin(1), flat.amax(1)
        if node in found:
            low, high = torch.minimum(low, found[node][0]), torch.maximum(high, found[node][1])
        found[node] = low, high

    watch(module, axes, batches, show)
    return found
