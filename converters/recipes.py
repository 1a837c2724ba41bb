"""The precisions that a converter may offer."""

from __future__ import annotations

from lvexport.converters.contract import Recipe

FP32 = Recipe("fp32", "weights and arithmetic in single precision", significand_bits=24)
FP16 = Recipe("fp16", "weights in half precision, arithmetic as the platform does it", significand_bits=11)

FLOATS = {recipe.name: recipe for recipe in (FP32, FP16)}
RECIPES = FLOATS
