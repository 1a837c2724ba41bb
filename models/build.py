"""From a name to a network with its weights."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from lvexport.models import weights as checkpoints
from lvexport.models.errors import ModelError
from lvexport.models.layouts import Layout
from lvexport.models.provenance import RANDOM_SEED, Provenance, choose_weights, describe
from lvexport.models.registry import ENTRIES

SETTLED_GAIN = 0.5
SETTLING_SIZE = 128  # pixels a side; every network here takes it


def assemble(provenance: Provenance) -> nn.Module:
    """The network that the provenance describes, in evaluation mode: (N, 3, H, W) → (N, classes)."""
    family = importlib.import_module(ENTRIES[provenance.name].module)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        model: nn.Module = family.build(provenance.name, provenance.num_classes)
        model.requires_grad_(False)
        if provenance.weights.path is None:
            settle(model)
    if provenance.weights.path is not None:
        layout = checkpoints.load(model, provenance.weights.path, family.LAYOUTS)
        provenance = in_layout(provenance, layout, family.LAYOUTS)
    model.eval()
    model.provenance = provenance  # type: ignore[assignment]
    return model


def in_layout(provenance: Provenance, name: str, layouts: Mapping[str, Layout]) -> Provenance:
    """The provenance with what the spelling of the checkpoint tells of its origin."""
    channels = layouts[name].channels if name in layouts else None
    preprocessing = provenance.preprocessing
    if channels is not None:
        preprocessing = replace(preprocessing, channels=channels)
    return replace(provenance, layout=name, preprocessing=preprocessing)


@torch.no_grad()
def settle(model: nn.Module, imgsz: int = SETTLING_SIZE) -> None:
    """Give batch normalisation the statistics that an untrained network has on smooth random pictures.

    With the usual placeholders, mean 0 and variance 1, its activations die away from block to block, so far that half
    precision cannot hold them. That is a network nobody has: training replaces the placeholders in its first steps.
    A gain of one half keeps SiLU near its linear part; at 1, an untrained network amplifies the rounding of its first
    blocks in all later ones (mobilevit_s in half precision: 40 dB at a gain of 1, 51 dB at one half).
    """
    pictures = F.interpolate(torch.rand(16, 3, 8, 8), size=(imgsz, imgsz), mode="bilinear")
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0  # take the batch's own statistics whole
        norm.weight.fill_(SETTLED_GAIN)
    model.train()(pictures)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def build(
    name: str,
    weights: str | Path = "auto",
    num_classes: int | None = None,
    imgsz: int | None = None,
) -> nn.Module:
    """A registry network with its weights, in evaluation mode: (N, 3, H, W) → (N, classes).

    ``weights``: ``auto`` or ``demo`` (the checkpoint that ships with the project), ``random`` (seeded), or the path
    of a .safetensors, .pt or .pth file in this project's key layout or in one of the family's LAYOUTS, which is
    recognised by itself. ``imgsz``: pixels a side that it will be exported for, by default the size that the weights
    were trained at.

    Every network also has ``features(x)``, the list of its maps, one for each of ``strides`` with the number of
    ``channels`` of the same place, for a head of one's own.

    Raises ModelError where the name, the size or the weights cannot be used.
    """
    entry = ENTRIES.get(name)
    if entry is None:
        raise ModelError(f"There is no network named {name!r}. There are: {', '.join(ENTRIES)}.")
    return assemble(describe(entry, choose_weights(name, weights), num_classes, imgsz))
