"""SiLU as a product that integers compute too, so that a tensor need not leave them between two layers.

Importing this loads torch.
"""

from __future__ import annotations

from torch.fx import GraphModule, Node

from lvexport.converters.quantization.grids import Grid
from lvexport.converters.rewrites.graph import ATEN, calls, is_call

# What runtimes demand of a sigmoid in 8 bits, whose range is known (LiteRT 8-bit quantization specification, LOGISTIC).
GRID = Grid(1 / 256, -128)


def gates(module: GraphModule) -> list[tuple[Node, Node]]:
    """Each sigmoid of which its own argument is a multiple, with that product."""
    found = []
    for gate in calls(module, ATEN.sigmoid.default):
        users, x = list(gate.users), gate.args[0]
        if len(users) == 1 and is_call(users[0], ATEN.mul.Tensor) and set(users[0].args[:2]) == {gate, x}:
            found.append((gate, users[0]))
    return found
