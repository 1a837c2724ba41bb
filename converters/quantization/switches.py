"""Roundings that can be turned on and off in a program, to try which of its layers integers may compute.

Importing this loads torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from lvexport.converters.compression import Quantized, quantize
from lvexport.converters.contract import Integers
from lvexport.converters.quantization.gates import GRID, gates
from lvexport.converters.quantization.grids import Grid
from lvexport.converters.quantization.sites import Site
from lvexport.converters.rewrites import layers
from lvexport.converters.rewrites.graph import constant


class Rounding(nn.Module):
    """Rounds what it is given to a grid, if it is on."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid = grid
        self.on = False

    def forward(self, x: Tensor) -> Tensor:
        return self.grid.rounded(x) if self.on else x


class Weight(nn.Module):
    """A layer's weight, as it is or, if it is on, as whole numbers times scales, of ``integers`` or others."""

    def __init__(self, exact: Tensor, integers: Integers) -> None:
        super().__init__()
        self.on = False
        self.exact = exact.detach()
        self.integers = integers
        self.widen()

    def widen(self) -> None:
        """Round to the nearest."""
        self.keep(quantize(self.exact, self.integers))

    def keep(self, quantized: Quantized) -> None:
        self.quantized = quantized
        self.rounded = quantized.restored().to(self.exact.dtype)
        # Of a channel that is all zeros any scale is right; runtimes divide by it, and refuse one far from the others.
        scales = quantized.scale.reshape(-1)
        usual = scales[scales > 0].median() if bool((scales > 0).any()) else torch.tensor(1.0)
        self.scales = torch.where(scales > 0, scales, usual)

    def forward(self, weight: Tensor) -> Tensor:
        return self.rounded if self.on else weight


class Shift(nn.Module):
    """Adds a number to every channel of what a layer gives, if it is on. ``by``: (channels,), or None for nothing."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.on = False
        self.by: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.on or self.by is None:
            return x
        return x + self.by.reshape(-1, *(1 for _ in x.shape[self.axis + 1 :]))


@dataclass(frozen=True)
class Switched:
    """A site with its three roundings, and what its bias takes up of them."""

    site: Site
    given: Rounding
    weight: Weight
    shift: Shift
    output: Rounding

    def turn(self, on: bool) -> None:
        self.given.on = self.weight.on = self.shift.on = self.output.on = on


@dataclass(frozen=True)
class Gate:
    """The rounding of a sigmoid whose product with its own argument stands between layers."""

    output: Rounding
    around: tuple[Rounding, ...]

    def turn(self, wanted: bool) -> None:
        """On where that is wanted and all around it is."""
        self.output.on = wanted and all(rounding.on for rounding in self.around)


class Switchboard:
    """A program with roundings at each of its sites, all off at first, and at the gates between them.

    ``gated``: whether gates are on where the layers around them are.
    """

    def __init__(self, module: GraphModule, found: Iterable[Site], grids: Mapping[Node, Grid], bits: Integers) -> None:
        self.module = module
        self.switched = [self._install(site, grids, bits) for site in found]
        self.gates = self._install_gates()
        self.gated = True
        module.recompile()

    def _install(self, site: Site, grids: Mapping[Node, Grid], bits: Integers) -> Switched:
        graph, node, name = self.module.graph, site.node, site.node.name
        exact = constant(self.module, node.args[1])
        assert exact is not None
        switched = Switched(
            site,
            Rounding(grids[site.source]),
            Weight(exact, bits),
            Shift(layers.output_axis(node)),
            Rounding(grids[site.output]),
        )
        before: tuple[tuple[str, nn.Module, int], ...] = (
            (f"{name}_given", switched.given, 0),
            (f"{name}_weights", switched.weight, 1),
        )
        with graph.inserting_before(node):
            for target, rounding, place in before:
                self.module.add_submodule(target, rounding)
                node.update_arg(place, graph.call_module(target, (node.args[place],)))
        # A shift goes first: what is put right behind the layer later comes before it.
        self._follow(site.output, f"{name}_output", switched.output)
        self._follow(node, f"{name}_shift", switched.shift)
        return switched

    def _install_gates(self) -> list[Gate]:
        """Roundings at sigmoids that take what is rounded, and whose products are rounded wherever they are taken."""
        found = []
        for gate, product in gates(self.module):
            around = [self._rounding(node) for node in (gate.args[0], *product.users)]
            if None not in around:
                rounding = Rounding(GRID)
                self._follow(gate, f"{gate.name}_output", rounding)
                found.append(Gate(rounding, tuple(r for r in around if r is not None)))
        return found

    def _rounding(self, node: Any) -> Rounding | None:
        """The rounding that a node stands for."""
        if not isinstance(node, Node) or node.op != "call_module":
            return None
        found = self.module.get_submodule(str(node.target))
        return found if isinstance(found, Rounding) else None

    def _follow(self, node: Node, target: str, switch: nn.Module) -> None:
        """Put a switch behind a node, and in its place for all that use it."""
        self.module.add_submodule(target, switch)
        with self.module.graph.inserting_after(node):
            behind = self.module.graph.call_module(target, (node,))
        node.replace_all_uses_with(behind, delete_user_cb=lambda user: user is not behind)

    def turn(self, on: Callable[[Site], bool]) -> None:
        """Turn on what should be, and off the rest."""
        for switched in self.switched:
            switched.turn(on(switched.site))
        for gate in self.gates:
            gate.turn(self.gated)

    def on(self) -> list[Site]:
        """The sites that are rounded."""
        return [switched.site for switched in self.switched if switched.weight.on]

    @torch.no_grad()
    def run(self, batches: Iterable[Sequence[Tensor]]) -> Tensor:
        """(n, features) in single precision: all outputs of each input, one after the other."""
        answers = []
        for batch in batches:
            given = self.module(*batch)
            parts = [given] if isinstance(given, Tensor) else [part for part in given if isinstance(part, Tensor)]
            answers.append(torch.cat([part.reshape(-1) for part in parts]))
        return torch.stack(answers)
