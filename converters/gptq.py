"""Weights rounded so that what layers give stays, and not the weights. Importing this loads torch.

Layer by layer, in the order of the program. A layer is given what those before it give, which are rounded already, and
is to give what it gave when nothing was rounded (GPTAQ, Li et al., ICML 2025, arXiv 2504.02692): least squares say
which weights come nearest to that. They are rounded column by column, and the columns that are left take up what that
changes (GPTQ, Frantar et al., ICLR 2023, arXiv 2210.17323). What is off in the mean then, the bias takes up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg
from torch.nn import functional

from lvexport.converters.compression import Quantized, block_of, form_of, kept, least_error, nearest, on_grid, weights
from lvexport.converters.contract import Integers
from lvexport.converters.palettes import from_palette, nearest_palette
from lvexport.converters.rewrites.graph import ATEN, arguments, constant

Batch = Sequence[Tensor]  # one input of the program
Pair = tuple[Tensor, Tensor]
DAMPING = 0.01  # of the mean moment, added to all as GPTQ's authors do: few inputs leave moments that have no inverse
PLACES = 2048  # whose moments are summed in single precision, and these sums in double
ATTEMPTS = 4  # at a scale that the largest integer is used with
_FEW = 4  # bits up to which columns take up what others lost; of more, that is lost in noise


@torch.no_grad()
def fit(module: GraphModule, batches: Sequence[Batch], integers: Integers) -> None:
    """Round the weights of a program's layers in place, over calibration inputs."""
    rounded = {next(iter(weight.users)): weight for weight in weights(module)}
    own, changed = Values(module, batches), Values(module, batches)
    for node in module.graph.nodes:
        own.take(node)
        if node in rounded:
            weight = rounded[node]
            value = numbers(module, weight)
            total, lost = moments(node, value.shape, own.of[node.args[0]], changed.of[node.args[0]])
            found = fitted(aimed(value, total, lost), total, form_of(weight.users, integers))
            changed.put(weight, found)
        changed.take(node)
        if node in rounded and has_own_bias(module, node):
            bias = node.args[2]
            changed.put(bias, numbers(module, bias) + shift(node, own.of[node], changed.of[node]))
            changed.take(node)
        own.forget(node)
        changed.forget(node)


class Values:
    """What the nodes of a program give for each of some inputs, for as long as others need it."""

    def __init__(self, module: GraphModule, batches: Sequence[Batch]) -> None:
        self.module, self.count = module, len(batches)
        self.of: dict[Node, list[Any]] = {}
        self._inputs = iter(zip(*batches, strict=True))
        self._last = last_uses(module)

    def take(self, node: Node) -> None:
        """Compute what a node gives."""
        if node.op == "placeholder":
            self.of[node] = list(next(self._inputs))
        elif node.op == "get_attr":
            self.of[node] = [constant(self.module, node)] * self.count
        elif node.op == "call_function":
            self.of[node] = [called(node, node.target, self.of, i) for i in range(self.count)]
        elif node.op == "call_module":
            target = self.module.get_submodule(str(node.target))
            self.of[node] = [called(node, target, self.of, i) for i in range(self.count)]

    def put(self, node: Node, value: Tensor) -> None:
        """Change the numbers of a constant, here and in the program; others that have read it keep what they read."""
        kept_by: Any = attrgetter(str(node.target))(self.module)
        kept_by.data = value.to(kept_by.dtype)
        self.of[node] = [kept_by.detach()] * self.count

    def forget(self, node: Node) -> None:
        """Let go of what nothing behind a node needs."""
        for done in self._last.get(node, ()):
            self.of.pop(done, None)


def last_uses(module: GraphModule) -> dict[Node, list[Node]]:
    """The nodes that nothing needs any more behind each node."""
    found: dict[Node, list[Node]] = {}
    seen: set[Node] = set()
    for node in reversed(module.graph.nodes):
        new = [n for n in (node, *node.all_input_nodes) if n not in seen]
        seen.update(new)
        found[node] = new
    return found


def called(node: Node, target: Any, values: Mapping[Node, list[Any]], i: int) -> Any:
    """What an operation gives for one of the inputs."""
    args = map_arg(node.args, lambda n: values[n][i])
    return target(*args, **map_arg(node.kwargs, lambda n: values[n][i]))


def numbers(module: GraphModule, node: Node) -> Tensor:
    """Those of a constant, in double precision."""
    found = constant(module, node)
    assert found is not None
    return found.double()


def has_own_bias(module: GraphModule, layer: Node) -> bool:
    """Whether a layer has a bias, and no other has the same."""
    bias = constant(module, layer.args[2] if len(layer.args) > 2 else None)
    if bias is None:
        return False
    read = (node for node in module.graph.nodes if node.op == "get_attr")
    same = [n for n in read if (found := constant(module, n)) is not None and found.data_ptr() == bias.data_ptr()]
    return sum(len(node.users) for node in same) == 1


def shift(layer: Node, own: Sequence[Tensor], changed: Sequence[Tensor]) -> Tensor:
    """(O,) by how much a layer's outputs are off in the mean."""
    axis = 1 if layer.target is ATEN.conv2d.default else -1
    before, after = ([x.movedim(axis, 0).flatten(1).double().mean(1) for x in given] for given in (own, changed))
    return torch.stack(before).mean(0) - torch.stack(after).mean(0)


def moments(layer: Node, shape: torch.Size, own: Iterable[Tensor], changed: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Σ x xᵀ and Σ (x0 - x) xᵀ, (groups, K, K) each: of the K numbers that outputs are sums over.

    x is what they are when layers before are rounded, and x0 without that; in the order of the columns of the weight,
    which has that ``shape``.
    """
    groups, columns = arguments(layer).get("groups", 1), shape[1:].numel()
    total, lost = (torch.zeros(groups, columns, columns, dtype=torch.double) for _ in range(2))
    for some in together(zip(own, changed, strict=True), PLACES // places(layer)):
        x = torch.cat([seen(layer, now, shape) for _, now in some], -1)
        apart = torch.cat([seen(layer, before - now, shape) for before, now in some], -1)
        total += (x @ x.mT).double()
        lost += (apart @ x.mT).double()
    return total, lost


def places(layer: Node) -> int:
    """How often a layer's weight is used for one input."""
    given: torch.Size = layer.meta["val"].shape
    return given[2:].numel() if layer.target is ATEN.conv2d.default else given[:-1].numel()


def together(pairs: Iterable[Pair], count: int) -> Iterator[list[Pair]]:
    """So many of them at a time, at least one."""
    ahead = iter(pairs)
    while some := list(islice(ahead, max(1, count))):
        yield some


def seen(layer: Node, x: Tensor, shape: torch.Size) -> Tensor:
    """(groups, K, places): what a layer whose weight has that shape sums up, at each place of its outputs."""
    if layer.target is ATEN.linear.default:
        return x.reshape(1, -1, shape[1]).mT
    of = arguments(layer)
    patches: Tensor = functional.unfold(x, shape[2:], of["dilation"], of["padding"], of["stride"])
    return patches.reshape(of["groups"], shape[1:].numel(), -1)


def aimed(weight: Tensor, total: Tensor, lost: Tensor) -> Tensor:
    """The weight (O, I, …) that comes nearest to giving for changed inputs what it gave for the program's own."""
    rows = weight.reshape(len(total), -1, total.shape[-1])
    change: Tensor = torch.linalg.solve(damped(total), (rows @ lost).mT).mT
    return (rows + change).reshape(weight.shape)


def damped(total: Tensor) -> Tensor:
    """Moments that have an inverse. An input that is always zero counts as others do, so that its weights stay."""
    counts = total.diagonal(dim1=1, dim2=2)
    mean = counts.mean(1, keepdim=True)
    mean = torch.where(mean > 0, mean, 1.0)
    made = total.clone()
    made.diagonal(dim1=1, dim2=2).copy_(torch.where(counts > 0, counts, mean) + DAMPING * mean)
    return made


def fitted(weight: Tensor, total: Tensor, form: Integers) -> Tensor:
    """A weight (O, I, …) rounded: that which leaves what it gives for inputs of such moments.

    ``total`` (groups, K, K), K = I·….
    """
    groups, columns, _ = total.shape
    if form.bits > _FEW:
        return nearest(weight, form)
    rows = weight.reshape(groups, -1, columns).clone()
    with_inverse = damped(total)
    counts = with_inverse.diagonal(dim1=1, dim2=2)
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(with_inverse)), upper=True)
    if form.palette:
        palette = nearest_palette(rows, counts[:, None, :], form)
        return swept(rows, inverse, partial(from_palette, palette=palette))[0].reshape(weight.shape)
    size = block_of(weight.shape[1], form) * (columns // weight.shape[1])
    data, scales = torch.empty_like(rows), []
    for start in range(0, columns, size):
        block, behind = slice(start, start + size), slice(start + size, columns)
        some = Block(inverse[:, block, block], counts[:, None, block], form)
        data[..., block], error, scale = settled(rows[..., block], some)
        rows[..., behind] -= error @ inverse[:, block, behind]
        scales.append(scale)
    shape = (len(weight), -1, *(1 for _ in weight.shape[2:]))
    scale = torch.cat(scales, -1).reshape(shape).float()
    return Quantized(data.to(torch.int8).reshape(weight.shape), scale, form.bits).restored()


@dataclass(frozen=True)
class Block:
    """Columns that share a scale.

    ``inverse``: their part of the upper Cholesky factor of the moments' inverse. ``counts``: of the moments' diagonal.
    """

    inverse: Tensor
    counts: Tensor
    form: Integers


def settled(rows: Tensor, block: Block) -> tuple[Tensor, Tensor, Tensor]:
    """The integers of a block, what the columns behind it have to take up, and its scales (groups, rows, 1).

    Converters find scales by the largest number of a block, so that has to be the largest integer. Where weights that
    took up what others lost no longer reach it, a smaller scale is tried, and at last rounding to the nearest.
    """
    form, most = block.form, block.form.largest
    first = scale = least_error(rows, form, block.counts)
    for _ in range(ATTEMPTS):
        found, error = swept(rows.clone(), block.inverse, partial(on_multiples, scale=scale, form=form))
        data = on_grid(found, scale, form)
        reached = data.abs().amax(-1, keepdim=True)
        below = (reached < most) & (scale > 0)
        if not below.any():
            return data, error, scale
        smaller = kept(scale * (reached + 0.5) / (most + 0.5), form.half)
        scale = torch.where(below, smaller, scale)
    below &= data.abs().amax(-1, keepdim=True) < most
    nearest = on_grid(rows, first, form)
    return torch.where(below, nearest, data), torch.where(below, 0.0, error), torch.where(below, first, scale)


def on_multiples(rows: Tensor, scale: Tensor, form: Integers) -> Tensor:
    """Numbers rounded to whole multiples of their scale."""
    return on_grid(rows, scale, form) * scale


def swept(rows: Tensor, inverse: Tensor, rounded: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Rounded columns and their errors, one after the other; the rows are changed.

    The second half of them takes up what the first half lost, all at once.
    """
    count = rows.shape[-1]
    if count == 1:
        found = rounded(rows)
        return found, (rows - found) / inverse
    half = count // 2
    first, error = swept(rows[..., :half], inverse[:, :half, :half], rounded)
    rows[..., half:] -= error @ inverse[:, :half, half:]
    second, further = swept(rows[..., half:], inverse[:, half:, half:], rounded)
    return torch.cat([first, second], -1), torch.cat([error, further], -1)
