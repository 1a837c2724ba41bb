"""How other people's code spells the tensors of a network. A layout is data; here is what reads it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

State = Mapping[str, Tensor]
Rule = tuple[str, str]  # pattern and replacement, as re.sub takes them


@dataclass(frozen=True)
class Fusion:
    """Tensors that their code keeps apart and ours stacks along the first dimension, in this order."""

    parts: tuple[str, ...]  # the differing piece of each name
    whole: str  # what stands in its place here


@dataclass(frozen=True)
class Layout:
    """One way to spell a network's state dict.

    ``derived``: patterns of names that hold no learned number, only what follows from the input size (an index, say).
    ``rename``: rules, all of them applied to each name in this order; what follows works on the new names.
    ``fuse``: tensors to be stacked. ``copy``: patterns of tensors that are stored once and used twice here, with the
    name of the second use; nothing is copied where some of those are stored too. ``channels``: the order of the colours
    that the checkpoints spelled so were trained on, where it is not the registry's.
    """

    rename: tuple[Rule, ...] = ()
    fuse: tuple[Fusion, ...] = ()
    copy: tuple[Rule, ...] = ()
    derived: tuple[str, ...] = ()
    channels: str | None = None


OWN = Layout()


def translate(state: State, layout: Layout) -> dict[str, Tensor]:
    """The same tensors under the names that they have here. No tensor is lost but the derived ones."""
    learned = {
        key: value for key, value in state.items() if not any(re.search(pattern, key) for pattern in layout.derived)
    }
    translated = rename(learned, layout.rename)
    for fusion in layout.fuse:
        translated = fuse(translated, fusion)
    for pattern, second in layout.copy:
        copies = {re.sub(pattern, second, key): value for key, value in translated.items() if re.search(pattern, key)}
        if not copies.keys() & translated.keys():
            translated |= copies
    return translated


def rename(state: State, rules: tuple[Rule, ...]) -> dict[str, Tensor]:
    """The same tensors under the names that the rules give. Where two would share one, the second stays left over."""
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        name = key
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        renamed[f"{key} (again {name})" if name in renamed else name] = value
    return renamed


def fuse(state: State, fusion: Fusion) -> dict[str, Tensor]:
    """Stack each set of parts that is complete and of one shape; leave any other as it is."""
    fused = dict(state)
    first = fusion.parts[0]
    for key in state:
        whole = key.replace(first, fusion.whole)
        names = [key.replace(first, part) for part in fusion.parts]
        if first not in key or whole in state or not all(name in state for name in names):
            continue
        if len({state[name].shape for name in names}) == 1 and state[key].ndim:
            fused[whole] = torch.cat([fused.pop(name) for name in names])
    return fused
