"""Biases that take up what rounding moves on average. Importing this loads torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from lvexport.converters.quantization.statistics import Batch
from lvexport.converters.quantization.switches import Switchboard


@torch.no_grad()
def correct(board: Switchboard, batches: Sequence[Batch]) -> None:
    """Make every layer that is on give, channel by channel, what it gives without any rounding in the mean.

    Nagel et al., Data-free quantization through weight equalization and bias correction (2019), section 4.2, measured
    on calibration inputs: in the order of the program, each layer on what the corrected ones before it give.
    """
    on = board.on()
    board.turn(lambda site: False)
    wanted = _Layerwise(board, {}).run(batches)
    for switched in board.switched:
        switched.shift.by = None
    board.turn(lambda site: site in on)
    _Layerwise(board, wanted).run(batches)


class _Layerwise:
    """Runs a program over all inputs, one operation after the other, so that one can be mended before the next.

    ``wanted``: what each layer is to give in the mean; none are mended that have nothing there.
    """

    def __init__(self, board: Switchboard, wanted: Mapping[Node, Tensor]) -> None:
        self.graph = board.module.graph
        self.interpreter = torch.fx.Interpreter(board.module, garbage_collect_values=False)
        self.switched = {switched.site.node: switched for switched in board.switched}
        self.wanted = wanted
        self.placeholders = [node for node in self.graph.nodes if node.op == "placeholder"]

    def run(self, batches: Sequence[Batch]) -> dict[Node, Tensor]:
        """The mean of what each layer gives, before its shift."""
        last = {given: node for node in self.graph.nodes for given in node.all_input_nodes}
        environments: list[dict[Node, Any]] = [{} for _ in batches]
        means = {}
        for node in self.graph.nodes:
            for environment, batch in zip(environments, batches, strict=True):
                self._step(node, environment, batch)
            if node in self.switched:
                means[node] = self._mean(node, environments)
                switched = self.switched[node]
                if node in self.wanted and switched.weight.on:
                    switched.shift.by = (self.wanted[node] - means[node]).to(environments[0][node].dtype)
            for gone in (given for given in node.all_input_nodes if last[given] is node):
                for environment in environments:
                    del environment[gone]
        return means

    def _step(self, node: Node, environment: dict[Node, Any], batch: Batch) -> None:
        """Compute one node for one input."""
        if node in self.placeholders:
            self.interpreter.args_iter = iter(batch[self.placeholders.index(node) :])
        self.interpreter.env = environment
        environment[node] = self.interpreter.run_node(node)

    def _mean(self, node: Node, environments: Sequence[Mapping[Node, Any]]) -> Tensor:
        """(channels,)"""
        axis = self.switched[node].shift.axis
        per_input = [env[node].movedim(axis, 0).flatten(1).double().mean(1) for env in environments]
        return torch.stack(per_input).mean(0)
