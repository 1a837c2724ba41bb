"""The precisions that a converter may offer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lvexport.converters.contract import Integers, Recipe

SINGLE_BITS, HALF_BITS = 24, 11
FLOATING = 32  # bits of a weight that is not rounded

FP32 = Recipe("fp32", "weights and arithmetic in single precision", SINGLE_BITS, method="float32")
FP16 = Recipe(
    "fp16", "weights in half precision, arithmetic as the platform does it", HALF_BITS, squares=False, method="float16"
)
W8 = Recipe(
    "w8",
    "weights in 8-bit integers, a scale for each output channel",
    SINGLE_BITS,
    Integers(8),
    method="int8 per channel",
)
W4 = Recipe(
    "w4",
    "weights in 4-bit integers, a scale for each 32 input channels or so, fitted over calibration inputs",
    SINGLE_BITS,
    Integers(4, 32, grouped=Integers(8, half=True), half=True),
    fitted=True,
    method="blockwise int4, in groups int8",
)
P4 = Recipe(
    "p4",
    "weights from a palette of 16 numbers for each tensor, fitted over calibration inputs",
    SINGLE_BITS,
    Integers(4, palette=True, grouped=Integers(8, half=True), half=True),
    fitted=True,
    method="palettes of 4 bits, in groups int8",
)
W8A8 = Recipe(
    "w8a8",
    "weights and activations of all layers in 8-bit integers",
    SINGLE_BITS,
    Integers(8),
    activations=8,
    method="int8, static",
)
W8A16 = Recipe(
    "w8a16",
    "weights of all layers in 8-bit integers, their activations in 16-bit ones",
    SINGLE_BITS,
    Integers(8),
    activations=16,
    method="int8 × int16, static",
)
MIXED = Recipe(
    "mixed",
    "as w8a8, prepared for it, with as few layers in floating point as keep the budget",
    SINGLE_BITS,
    Integers(8),
    activations=8,
    mixed=True,
    method="int8, static, with floats",
)
W4A8 = replace(
    MIXED,
    name="w4a8",
    summary="as mixed, with as many weights in 4-bit integers as keep the budget, fitted over calibration inputs",
    narrow=Integers(4, half=True),  # a scale for each output channel, as layers that integers compute have it
    method="int8 × int4, static, with floats",
)

# LiteRT and XNNPACK compute linear layers with 4-bit weights in blocks of 32 channels, or with one scale for each
# output, and so convolutions that are linear at every place. LiteRT has kernels of its own for other convolutions with
# a scale for each output; for XNNPACK these are linear layers of what lies around every place. Neither has any for
# groups.
KERNELS_W4 = replace(
    W4,
    weights=Integers(4, 32, whole=True, kernels=Integers(4), grouped=Integers(8), half=True),
    method="int4, in groups int8",
)

FLOATS = {recipe.name: recipe for recipe in (FP32, FP16)}
WIDENED = {FP32.name: FP32, FP16.name: replace(FP16, squares=True)}  # normalisation in single precision
INTEGERS = {recipe.name: recipe for recipe in (W8, W4)}
STATIC = {recipe.name: recipe for recipe in (W8A8, MIXED)}
GATED = {name: replace(recipe, gates=True) for name, recipe in STATIC.items()}  # TensorFlow Lite and XNNPACK
WIDE = {W8A16.name: W8A16}
NARROW = {W4A8.name: W4A8}
GATED_NARROW = {W4A8.name: replace(W4A8, gates=True)}
RECIPES = FLOATS | INTEGERS | {recipe.name: recipe for recipe in (P4, W8A8, W8A16, MIXED, W4A8)}
ALIASES = {"16": "fp16", "8": "w8a8", "int8": "w8a8"}

NO_FLOATS = dict.fromkeys(
    (*FLOATS, *INTEGERS, P4.name),
    "microcontrollers compute in integers, for which activations have to be rounded as well",
)
NO_NARROW = {W4A8.name: "Vela, which compiles for Ethos-U, takes weights of 8 bits and no fewer"}
NO_PALETTES = {P4.name: "its format has no constants that stand for places in a palette"}


def rounding_activations(recipe: Recipe) -> Recipe:
    """The recipe where layers with integer weights round what they take as it comes."""
    return replace(recipe, dynamic=True, method=f"{recipe.method}, dynamic range")


def bits_of_weights(counts: Mapping[int, int]) -> str:
    """A remark on how many numbers of layers' weights have how many bits, 32 being floating point."""
    total = sum(counts.values()) or 1
    kinds = {bits: "floating point" if bits == FLOATING else f"{bits} bits" for bits in counts}
    return "weights of layers: " + ", ".join(f"{counts[b] / total:.1%} in {kinds[b]}" for b in sorted(counts))


def halved(recipe: Recipe) -> Recipe:
    """The recipe with arithmetic in half precision, that of squares too."""
    return replace(recipe, significand_bits=HALF_BITS, squares=False)
