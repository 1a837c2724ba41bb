"""Biases that take up what rounding moves on average. Importing this loads torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from lvexport.converters.quantization.statistics import Batch
from lvexport.converters.quantization.switches import Switchboard, Switched, output_channels
from lvexport.converters.rewrites.graph import constant, keep


@torch.no_grad()
def correct(board: Switchboard, batches: Sequence[Batch]) -> None:
    """Make every layer that is on give, channel by channel, what it gave before rounding in the mean.

    Nagel et al., Data-free quantization through weight equalization and bias correction (2019), section 4.2, measured
    on calibration inputs: in the order of the program, each layer on what the corrected ones before it give.
    """
    wanted = _means(board, batches)
    on = [switched for switched in board.switched if switched.weight.on]
    _Layerwise(board, on, wanted).run(batches)


def _means(board: Switchboard, batches: Sequence[Batch]) -> dict[Node, Tensor]:
    """What each site's layer gives in the mean, nothing being rounded."""
    state = [(switched, switched.weight.on) for switched in board.switched]
    board.turn(lambda site: False)
    found = _Layerwise(board, [], {}).run(batches)
    for switched, on in state:
        switched.turn(on)
    return found


class _Layerwise:
    """Runs a program over all inputs, one operation after the other, so that one can be mended before the next."""

    def __init__(self, board: Switchboard, mended: Sequence[Switched], wanted: dict[Node, Tensor]) -> None:
        self.board = board
        self.mended = {switched.site.node for switched in mended}
        self.sites = {switched.site.node: switched.site for switched in board.switched}
        self.wanted = wanted

    def run(self, batches: Sequence[Batch]) -> dict[Node, Tensor]:
        """The mean of what each site's layer gives, after mending."""
        interpreter = torch.fx.Interpreter(self.board.module, garbage_collect_values=False)
        last = {given: node for node in self.board.module.graph.nodes for given in node.all_input_nodes}
        dying: dict[Node, list[Node]] = {}
        for given, node in last.items():
            dying.setdefault(node, []).append(given)
        environments: list[dict[Node, Any]] = [{} for _ in batches]
        means = {}
        for node in list(self.board.module.graph.nodes):
            self._step(interpreter, node, environments, batches)
            if node in self.sites:
                means[node] = self._mean(node, environments)
                if node in self.mended:
                    self._mend(interpreter, node, means[node], environments, batches)
            for gone in dying.get(node, ()):
                for environment in environments:
                    environment.pop(gone, None)
        return means

    def _step(
        self,
        interpreter: torch.fx.Interpreter,
        node: Node,
        environments: list[dict[Node, Any]],
        batches: Sequence[Batch],
    ) -> None:
        for environment, batch in zip(environments, batches, strict=True):
            interpreter.env = environment
            interpreter.args_iter = iter(batch[self._place(node) :])
            environment[node] = interpreter.run_node(node)

    def _place(self, node: Node) -> int:
        """Which input a placeholder is; 0 for any other node."""
        placeholders = [n for n in self.board.module.graph.nodes if n.op == "placeholder"]
        return placeholders.index(node) if node in placeholders else 0

    def _mean(self, node: Node, environments: list[dict[Node, Any]]) -> Tensor:
        axis = output_channels(self.sites[node])
        per_input = [env[node].movedim(axis, 0).flatten(1).double().mean(1) for env in environments]
        return torch.stack(per_input).mean(0)

    def _mend(
        self,
        interpreter: torch.fx.Interpreter,
        node: Node,
        mean: Tensor,
        environments: list[dict[Node, Any]],
        batches: Sequence[Batch],
    ) -> None:
        """Add to the bias what is missing from the mean, and compute the layer again."""
        module = self.board.module
        old = None if len(node.args) < 3 else constant(module, node.args[2])
        bias = self.wanted[node] - mean if old is None else self.wanted[node] - mean + old
        exact = environments[0][node]
        new = keep(module, node, f"{node.name}_corrected", bias.to(exact.dtype))
        node.args = (*node.args[:2], new, *node.args[3:])
        for behind in (new, node):
            self._step(interpreter, behind, environments, batches)
