"""The rewrites, one row each. Plain data, so that naming them does not load torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, cast

from lvexport.converters.recipes import SINGLE_BITS

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from lvexport.converters.contract import Recipe


@dataclass(frozen=True)
class Rewrite:
    """One change of a program that leaves what it computes as it is.

    ``function``: ``module.function`` in this package. ``squares``: it writes out squares and their means, which leave
    the range of half precision where the operation that it replaces does not. ``but_for``: the targets whose
    converter writes out the same squares by itself. ``rounded``: it is for programs with rounded layers as well.
    ``only``: the targets that it is for, in single precision: those whose runtime has what it writes. All, if none is
    named.
    """

    name: str
    summary: str
    function: str
    squares: bool = False
    but_for: tuple[str, ...] = ()
    rounded: bool = True
    only: tuple[str, ...] = ()

    def suits(self, target: str, recipe: Recipe) -> bool:
        """Whether it squares no numbers where half precision would hold them and does not hold them already.

        And, for programs with rounded layers, whether it is for those.
        """
        may_square = recipe.squares or not self.squares or target in self.but_for
        has = not self.only or (target in self.only and recipe.significand_bits == SINGLE_BITS)
        return may_square and has and (self.rounded or recipe.weights is None)

    def apply(self, module: GraphModule) -> None:
        """Change the module in place. Loads torch."""
        home, _, function = self.function.partition(".")
        found = getattr(import_module(f"lvexport.converters.rewrites.{home}"), function)
        cast("Callable[[GraphModule], None]", found)(module)


# In the order in which each prepares the next.
REWRITES = {
    rewrite.name: rewrite
    for rewrite in (
        Rewrite("constants", "compute what depends on no input, such as positional biases", "constants.fold_constants"),
        Rewrite("activations", "SiLU, GELU and hard swish as one operation each", "activations.name_activations"),
        Rewrite(
            "dynamic-relus",
            "the larger of two slopes times a map as one operation and a product",
            "dynamic_relus.name_dynamic_relus",
            rounded=False,
            only=("executorch",),
        ),
        Rewrite("attention", "torch's attention as two products and a plain softmax", "attention.spell_attention"),
        Rewrite("batch-norms", "batch normalisation into the layers around it", "norms.fold_batch_norms"),
        Rewrite("views", "reshapes and permutations as one, behind what clips", "views.compose_views"),
        Rewrite("norm-affines", "factors of layer and group norms into the next layers", "norms.fold_norm_affines"),
        Rewrite("projections", "queries, keys and values by a layer of their own each", "attention.split_projections"),
        Rewrite("scales", "layer scales and attention scales into weights", "scales.fold_scales"),
        Rewrite("pools", "pooling mixers as depthwise convolutions", "pools.merge_pools", rounded=False),
        Rewrite(
            "rms-norms",
            "layer normalisation of what is centred at its sources as RMS normalisation",
            "norms.centre_layer_norms",
            squares=True,
        ),
        Rewrite(
            "layer-norms",
            "layer normalisation as products, its centring in the weights before it",
            "norms.spell_layer_norms",
            squares=True,
        ),
        Rewrite("group-norms", "group normalisation as means that delegates take", "norms.spell_group_norms", True),
        Rewrite(
            "whole-norms",
            "group normalisation of one group without a dimension for the group",
            "norms.spell_whole_norms",
            squares=True,
            but_for=("coreml", "executorch:coreml"),
        ),
        Rewrite("vector-norms", "Euclidean norms as roots of sums of squares", "norms.spell_vector_norms", True),
        Rewrite("parts", "queries, keys and values split along the heads", "slices.split_parts"),
        Rewrite("transposes", "products transposed where views go by it", "transposes.transpose_products"),
        Rewrite(
            "slices",
            "splits as slices, strides as depthwise convolutions, and sums of these as one",
            "slices.spell_slices",
        ),
        Rewrite("means", "means over maps and tokens in the form that delegates take", "means.spell_means"),
        Rewrite("products", "stacks of matrix products over one batch dimension", "attention.batch_products"),
        Rewrite("flat-views", "permutations of no more than four dimensions", "views.compose_flat_views"),
        # Integers have one program for all targets, also for those whose maps have channels first.
        Rewrite("channels-last", "views of maps as they lie, channels last", "maps.keep_channels_last", rounded=False),
    )
}
