"""From a name to a network with its weights."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lvexport.models import weights as checkpoints
from lvexport.models.errors import ModelError
from lvexport.models.layers import LAYER_SCALES
from lvexport.models.layouts import Layout
from lvexport.models.provenance import RANDOM_SEED, Provenance, choose_weights, describe
from lvexport.models.registry import ENTRIES

SETTLED_GAIN = 0.5
SETTLED_SCALE = 0.1
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
    """Give batch normalisation statistics, gains and shifts such as a trained network might have.

    With the usual placeholders, mean 0 and variance 1, activations die away from block to block, so far that half
    precision cannot hold them. That is a network nobody has: training replaces the placeholders in its first steps.
    Three choices keep the network from amplifying the rounding of its first blocks in all later ones, as trained ones
    do not: the pictures have details of every size, as natural ones do; a layer's channels share one variance, so that
    one in which the pictures happen to cancel out is not blown up; and shifts are random, for without them the last
    average over positions is of numbers around zero and cancels as well. Layer scales are opened as far as CaiT opens
    them (arXiv 2103.17239): at EfficientFormer's first 1e-5 no fault in a branch could be seen.
    """
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[2] in LAYER_SCALES:
            parameter.fill_(SETTLED_SCALE)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.weight.fill_(SETTLED_GAIN)
        norm.bias.normal_(0, SETTLED_GAIN)
    handles = [norm.register_forward_pre_hook(_take_statistics) for norm in norms]
    model.eval()(natural_pictures(16, imgsz))
    for handle in handles:
        handle.remove()


def _take_statistics(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    (x,) = inputs
    norm.running_mean.copy_(x.mean(dim=(0, 2, 3)))
    norm.running_var.fill_(x.var(dim=(0, 2, 3)).mean())


def natural_pictures(count: int, size: int) -> Tensor:
    """(count, 3, size, size) random pictures around 0.5 whose details have the same contrast in every octave.

    Natural pictures have that spectrum, an amplitude that falls with the frequency (Field, J. Opt. Soc. Am. A 4, 1987).
    """
    sides = [size >> octave for octave in range(size.bit_length() - 2)]
    octaves = [F.interpolate(torch.rand(count, 3, s, s) - 0.5, size=(size, size), mode="bilinear") for s in sides]
    pictures: Tensor = torch.stack(octaves).sum(dim=0) / float(len(sides)) ** 0.5 + 0.5
    return pictures


def fresh(name: str, num_classes: int, seed: int) -> nn.Module:
    """A registry network to be trained, its weights initialised from the seed: (N, 3, H, W) → (N, num_classes)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = importlib.import_module(ENTRIES[name].module).build(name, num_classes)
    return model


def build(
    name: str,
    weights: str | Path = "auto",
    num_classes: int | None = None,
    imgsz: int | None = None,
) -> nn.Module:
    """A registry network with its weights, in evaluation mode: (N, 3, H, W) → (N, classes).

    ``weights``: ``auto``, ``demo`` or ``witness`` (which ship with the project), ``random`` (seeded), or the path
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
