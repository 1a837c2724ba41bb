"""Weights as integers times scales: what they are rounded to, the same for every target. Importing this loads torch.

A recipe's integers are laid down once, in the program: its weights are rounded there, and stay floating-point numbers.
What is rounded once is not changed by being rounded again, so each converter finds the same integers in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.export import ExportedProgram

from lvexport.converters.contract import Integers
from lvexport.converters.derived import constant
from lvexport.converters.palettes import palettize
from lvexport.converters.rewrites.graph import arguments
from lvexport.converters.rewrites.norms import fold_batch_norms, fold_norm_affines

# Tensors of so many numbers or fewer stay as they are: of small ones, scales and the operation that applies them take
# what rounding saves. coremltools' default (optimize/coreml/_config.py, ``weight_threshold``).
SMALLEST = 2048
_HALF_STEP = 2.0**-24  # between numbers of half precision below its smallest normal one (IEEE 754 binary16)
_SAME = 1e-6  # of the largest magnitude: what rounding in single precision may do to a whole multiple of a scale
# Shares of a block's largest magnitude that its range may reach to. Clipping a few numbers rounds the others finer.
_RANGES = tuple(1 - 0.04 * i for i in range(13))


@dataclass(frozen=True)
class Quantized:
    """``data`` (O, I, …) int8 times ``scale`` (O, blocks, 1, …) is the weight, each scale for I / blocks channels.

    ``bits``: what one of the integers takes.
    """

    data: Tensor
    scale: Tensor
    bits: int

    def restored(self) -> Tensor:
        """The weight in single precision."""
        return self.data * self.scale.repeat_interleave(self.data.shape[1] // self.scale.shape[1], dim=1)


def block_of(channels: int, integers: Integers) -> int:
    """How many of the input channels share a scale: the divisor of their number that is nearest to what is asked for.

    Nearest as a ratio: of 48 channels 24, and not 48, are taken for 32.
    """
    if integers.block is None:
        return channels
    wanted = integers.block
    if integers.whole:
        return channels if channels % wanted else wanted
    divisors = (n for n in range(1, channels + 1) if channels % n == 0)
    return min(divisors, key=lambda n: max(n / wanted, wanted / n))


def blocks(weight: Tensor, integers: Integers) -> Tensor:
    """(O, I, …) → (O, blocks, numbers of one block)."""
    outputs, channels = weight.shape[:2]
    return weight.reshape(outputs, channels // block_of(channels, integers), -1)


def quantize(weight: Tensor, integers: Integers) -> Quantized:
    """Round a weight (O, I, …), each block over the range that leaves it the least squared error."""
    grouped = blocks(weight.detach().double(), integers)
    return _quantized(weight, least_error(grouped, integers), integers)


def nearest(weight: Tensor, form: Integers) -> Tensor:
    """A weight (O, I, …), each of its numbers rounded by itself."""
    return (palettize(weight, form) if form.palette else quantize(weight, form)).restored()


def least_error(grouped: Tensor, integers: Integers, counts: Tensor | None = None) -> Tensor:
    """(…, 1) the scales that leave (…, numbers) the least squared error, each number's times how much it ``counts``."""
    largest = grouped.abs().amax(-1, keepdim=True)
    scales = torch.stack([kept(largest * share / integers.largest, integers.half) for share in _RANGES])
    errors = (on_grid(grouped, scales, integers) * scales - grouped).square()
    errors = (errors if counts is None else errors * counts).sum(-1, keepdim=True)
    return scales.gather(0, errors.argmin(0, keepdim=True))[0]


def short(scale: Tensor) -> Tensor:
    """Scales of 8 significant bits.

    No format of a target rounds them further: XNNPACK keeps those of blocks as bfloat16, LiteRT as float16. Times an
    integer they are exact in single precision.
    """
    mantissa, exponent = torch.frexp(scale)
    return torch.ldexp((mantissa * 256).round() / 256, exponent)


def kept(scale: Tensor, half: bool) -> Tensor:
    """Scales as formats keep them; with ``half`` as numbers of half precision.

    The smallest of these are rounded down, so that the largest number of a block stays the largest integer; where the
    scale then is 0, so is the block.
    """
    scale = short(scale)
    if not half:
        return scale
    return torch.where(scale < torch.finfo(torch.float16).tiny, (scale / _HALF_STEP).floor() * _HALF_STEP, scale)


def requantize(weight: Tensor, integers: Integers) -> Quantized:
    """The integers and scales of a weight that was rounded before: its largest magnitude is the largest integer."""
    grouped = blocks(weight.detach().double(), integers)
    return _quantized(weight, grouped.abs().amax(-1, keepdim=True) / integers.largest, integers)


def recovered(weight: Tensor, integers: Integers) -> Quantized | None:
    """The integers and scales that a weight was rounded to, in any of the forms with scales; None where it was not."""
    if weight.numel() <= SMALLEST:
        return None
    for form in integers.scaled:
        found = requantize(weight, form)
        if (found.restored() - weight).abs().max() / weight.abs().max() <= _SAME:
            return found
    return None


def on_grid(grouped: Tensor, scale: Tensor, integers: Integers) -> Tensor:
    """The whole numbers that stand for a weight's blocks."""
    safe = torch.where(scale > 0, scale, 1.0)
    return (grouped / safe).round().clamp(-integers.largest, integers.largest)


def _quantized(weight: Tensor, scale: Tensor, integers: Integers) -> Quantized:
    data = on_grid(blocks(weight.detach().double(), integers), scale, integers)
    shape = (*scale.shape[:2], *(1 for _ in weight.shape[2:]))
    return Quantized(data.to(torch.int8).reshape(weight.shape), scale.reshape(shape).float(), integers.bits)


def weights(module: torch.fx.GraphModule) -> Iterator[torch.fx.Node]:
    """The nodes of the weights that recipes round, each where it is used first."""
    aten, seen = torch.ops.aten, set()
    for target in (aten.conv2d.default, aten.linear.default):
        for node in module.graph.find_nodes(op="call_function", target=target):
            weight = node.args[1]
            if weight.op != "get_attr" or weight.target in seen or constant(module, weight).numel() <= SMALLEST:
                continue
            seen.add(weight.target)
            yield weight


def form_of(layers: Iterable[torch.fx.Node], integers: Integers) -> Integers:
    """What the weight of some layers is rounded to."""
    given = [arguments(layer) for layer in layers]
    if any(of.get("groups", 1) != 1 for of in given):
        return integers.grouped or integers
    return integers if all(map(is_product, layers)) else integers.kernels or integers


def is_product(layer: torch.fx.Node) -> bool:
    """Whether a layer is linear, or a convolution that is the same linear layer at every place."""
    if layer.target is torch.ops.aten.linear.default:
        return True
    given = arguments(layer)
    kernel = layer.args[1].meta["val"].shape[2:]  # type: ignore[union-attr]
    return all(n == 1 for n in (*kernel, *given["stride"], given["groups"])) and not any(given["padding"])


def compress(
    module: torch.fx.GraphModule,
    given: tuple[Tensor, ...],
    integers: Integers,
    batches: Sequence[Sequence[Tensor]] = (),
) -> ExportedProgram:
    """The program of a module with its weights rounded, in place; it takes such inputs as those ``given``.

    Over calibration inputs, ``batches``, weights are rounded so that what layers give stays; without any, each to the
    nearest. Batch normalisation and the factors of layer normalisations are folded into them before, for a converter
    that did so afterwards, as LiteRT's does, would find other numbers there than integers times a scale.
    """
    from lvexport.converters.gptq import fit

    fold_batch_norms(module)
    fold_norm_affines(module)
    if batches:
        fit(module, batches, integers)
    else:
        for node in weights(module):
            weight = constant(module, node)
            weight.data = nearest(weight, form_of(node.users, integers)).to(weight.dtype)
    module.recompile()
    return torch.export.export(module, given)
