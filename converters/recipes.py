"""The precisions that a converter may offer."""

from __future__ import annotations

from dataclasses import replace

from lvexport.converters.contract import Integers, Recipe

SINGLE_BITS, HALF_BITS = 24, 11

FP32 = Recipe("fp32", "weights and arithmetic in single precision", SINGLE_BITS, method="float32")
FP16 = Recipe("fp16", "weights in half precision, arithmetic as the platform does it", HALF_BITS, method="float16")
W8 = Recipe(
    "w8",
    "weights in 8-bit integers, a scale for each output channel",
    SINGLE_BITS,
    Integers(8),
    method="int8 per channel",
)
W4 = Recipe(
    "w4",
    "weights in 4-bit integers, a scale for each 32 input channels or so",
    SINGLE_BITS,
    Integers(4, 32),
    method="blockwise int4",
)
W8A8 = Recipe(
    "w8a8",
    "weights and activations of all layers in 8-bit integers",
    SINGLE_BITS,
    Integers(8),
    activations=8,
    method="int8, static",
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

FLOATS = {recipe.name: recipe for recipe in (FP32, FP16)}
INTEGERS = {recipe.name: recipe for recipe in (W8, W4)}
STATIC = {recipe.name: recipe for recipe in (W8A8, MIXED)}
GATED = {name: replace(recipe, gates=True) for name, recipe in STATIC.items()}  # TensorFlow Lite and XNNPACK
RECIPES = FLOATS | INTEGERS | STATIC
ALIASES = {"16": "fp16", "8": "w8a8", "int8": "w8a8"}

NO_FLOATS = dict.fromkeys(
    (*FLOATS, *INTEGERS), "microcontrollers compute in integers, for which activations have to be rounded as well"
)
NO_STATIC = dict.fromkeys(STATIC, "lvexport does not quantize the activations of this target yet")


def rounding_activations(recipe: Recipe) -> Recipe:
    """The recipe where layers with integer weights round what they take as it comes."""
    return replace(recipe, dynamic=True, method=f"{recipe.method}, dynamic range")


def halved(recipe: Recipe) -> Recipe:
    """The recipe with arithmetic in half precision."""
    return replace(recipe, significand_bits=HALF_BITS)
