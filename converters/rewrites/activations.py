"""Activations that were spelled out, as the one operation that they are; and two spelled out."""

from __future__ import annotations

from collections.abc import Callable
from math import isclose, pi, sqrt
from typing import Any

from torch.fx import GraphModule, Node

from lvexport.converters.rewrites.graph import ATEN, arguments, call, calls, is_call, prune, replace, shape, value

_GATES = {ATEN.sigmoid.default: ATEN.silu.default, ATEN.hardsigmoid.default: ATEN.hardswish.default}
_SCALED = (ATEN.mul.Tensor, ATEN.mul.Scalar, ATEN.div.Tensor, ATEN.div.Scalar)


def name_activations(module: GraphModule) -> None:
    """Write relu6(x + 3)/6 as hard sigmoid, x·sigmoid(x) as SiLU, x·hardsigmoid(x) as hard swish, and GELU by erf.

    GELU by erf is x/2·(1 + erf(x/√2)).
    """
    _name_hard_sigmoids(module)
    for product in calls(module, ATEN.mul.Tensor):
        for gate, x in _both_ways(product):
            named = _gated(gate, x) or _gelu(product, gate, x)
            if named is not None:
                replace(product, call(product, *named))
                break
    prune(module)


def _name_hard_sigmoids(module: GraphModule) -> None:
    """The sixth may be taken of the bounded sum itself, or of its product with something."""
    for node in calls(module, *_SCALED):
        product = _scaled(node, 1 / 6)
        if product is None:
            continue
        if (x := _summed(product)) is not None:
            replace(node, call(node, ATEN.hardsigmoid.default, x))
        elif is_call(product, ATEN.mul.Tensor) and len(product.users) == 1:
            _name_gate(node, product)


def _name_gate(node: Node, product: Node) -> None:
    for gate, other in _both_ways(product):
        x = _summed(gate)
        if x is not None and isinstance(other, Node):
            replace(node, call(node, ATEN.mul.Tensor, other, call(node, ATEN.hardsigmoid.default, x)))
            return


def _both_ways(product: Node) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """What is multiplied, in either order."""
    return product.args[:2], product.args[1::-1]


def _summed(node: Any) -> Node | None:
    """The x of relu6(x + 3)."""
    if not is_call(node, ATEN.relu6.default, ATEN.hardtanh.default, ATEN.clamp.default):
        return None
    given = arguments(node)
    low, high = (0, 6) if is_call(node, ATEN.relu6.default) else list(given.values())[1:3]
    moved = given["self"]
    if (low, high) != (0, 6) or not is_call(moved, ATEN.add.Tensor, ATEN.add.Scalar):
        return None
    x, by = moved.args[:2]
    floating = isinstance(x, Node) and value(x).is_floating_point()
    return x if floating and by == 3 and arguments(moved)["alpha"] == 1 else None


def spell_silu(module: GraphModule) -> None:
    """Write SiLU as x·sigmoid(x)."""
    for node in calls(module, ATEN.silu.default):
        x = node.args[0]
        replace(node, call(node, ATEN.mul.Tensor, x, call(node, ATEN.sigmoid.default, x)))
    module.recompile()


def spell_hard_sigmoids(module: GraphModule) -> None:
    """Write hard sigmoid as relu6(x + 3) / 6, with factors and addends in floating point.

    torch takes it apart with whole numbers, which become constants that ExecuTorch converts to floating point in every
    run, outside of the delegate.
    """
    for node in calls(module, ATEN.hardsigmoid.default):
        moved = call(node, ATEN.add.Tensor, node.args[0], 3.0)
        replace(node, call(node, ATEN.mul.Tensor, call(node, ATEN.hardtanh.default, moved, 0.0, 6.0), 1 / 6))
    module.recompile()


_CUBE = 0.044715  # of GELU's form with tanh (Hendrycks and Gimpel, arXiv 1606.08415)


def tanh_gelu(node: Node, x: Node) -> Node:
    """x/2·(1 + tanh(√(2/π)·x·(1 + 0.044715·x²))), in front of a node."""
    square = call(node, ATEN.mul.Tensor, x, x)
    curve = call(node, ATEN.add.Tensor, call(node, ATEN.mul.Tensor, square, _CUBE), 1.0)
    return _half_of(node, x, call(node, ATEN.mul.Tensor, x, curve))


def _half_of(node: Node, x: Node, curve: Node) -> Node:
    """x/2·(1 + tanh(√(2/π)·curve))."""
    inner = call(node, ATEN.mul.Tensor, curve, sqrt(2 / pi))
    gate = call(node, ATEN.add.Tensor, call(node, ATEN.tanh.default, inner), 1.0)
    return call(node, ATEN.mul.Tensor, call(node, ATEN.mul.Tensor, x, 0.5), gate)


def is_tanh_gelu(node: Any) -> bool:
    return is_call(node, ATEN.gelu.default) and arguments(node)["approximate"] == "tanh"


def spell_tanh_gelus(module: GraphModule) -> None:
    """Spell out GELU's form with tanh: ExecuTorch's XNNPACK backend computes every GELU with erf."""
    _spell_tanh_gelus(module, tanh_gelu)


def spell_tanh_gelus_by_powers(module: GraphModule) -> None:
    """Spell out GELU's form with tanh as coremltools names it again, which takes every GELU for the one with erf.

    (``fuse_gelu_tanh_approximation`` in converters/mil/mil/passes/defs/optimize_activation.py)
    """

    def spelled(node: Node, x: Node) -> Node:
        cube = call(node, ATEN.mul.Tensor, call(node, ATEN.pow.Tensor_Scalar, x, 3.0), _CUBE)
        return _half_of(node, x, call(node, ATEN.add.Tensor, x, cube))

    _spell_tanh_gelus(module, spelled)


def _spell_tanh_gelus(module: GraphModule, spelled: Callable[[Node, Node], Node]) -> None:
    for node in filter(is_tanh_gelu, calls(module, ATEN.gelu.default)):
        replace(node, spelled(node, arguments(node)["self"]))
    prune(module)


def _gated(gate: Any, x: Any) -> tuple[Any, Node] | None:
    if is_call(gate, *_GATES) and gate.args[0] is x:
        return _GATES[gate.target], x
    return None


def _gelu(product: Node, gate: Any, half: Any) -> tuple[Any, Node] | None:
    """GELU's operation and argument, where ``half`` is x/2 and ``gate`` 1 + erf(x/√2)."""
    x = _scaled(half, 0.5)
    if x is None or shape(x) != shape(product) or not is_call(gate, ATEN.add.Tensor, ATEN.add.Scalar):
        return None
    erf = next((a for a in gate.args[:2] if is_call(a, ATEN.erf.default)), None)
    if erf is None or 1 not in [a for a in gate.args[:2] if not isinstance(a, Node)]:
        return None
    return (ATEN.gelu.default, x) if _scaled(erf.args[0], 1 / sqrt(2)) is x else None


def _scaled(node: Any, factor: float) -> Node | None:
    """What a node is ``factor`` times of."""
    if not is_call(node, *_SCALED):
        return None
    a, b = node.args[:2]
    if node.target in (ATEN.mul.Tensor, ATEN.mul.Scalar):
        x, by = (a, b) if isinstance(a, Node) else (b, a)
        by = by if isinstance(by, int | float) else None
    else:
        x, by = a, 1 / b if isinstance(b, int | float) and b else None
    return x if isinstance(x, Node) and by is not None and isclose(by, factor, rel_tol=1e-6) else None
