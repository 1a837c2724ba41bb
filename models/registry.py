"""The networks that can be asked for by name. Plain data, so that listing them does not load torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lvexport.models.errors import SizeError
from lvexport.models.preprocessing import Preprocessing

CHECKPOINTS = Path(__file__).parent / "checkpoints"


@dataclass(frozen=True)
class Entry:
    """One network: where it is defined, what it was published for, and what it accepts."""

    name: str
    family: str
    module: str  # defines build(name, num_classes) and LAYOUTS
    parameters: int  # at num_classes, as published
    imgsz: int  # native size, pixels a side
    stride: int  # every input side is a multiple of this
    preprocessing: Preprocessing
    source: str
    num_classes: int = 1000

    def check_size(self, imgsz: int) -> None:
        """Raise SizeError unless the network takes (N, 3, imgsz, imgsz)."""
        if imgsz >= self.stride and imgsz % self.stride == 0:
            return
        lower = max(self.stride, imgsz // self.stride * self.stride)
        near = sorted({lower, lower + self.stride}, key=lambda size: abs(size - imgsz))[0]
        raise SizeError(
            f"{self.name} does not take images of {imgsz} × {imgsz} pixels: each side has to be a multiple of "
            f"{self.stride}, the network's total stride. The nearest size is --imgsz {near}; its own is {self.imgsz}."
        )


@dataclass(frozen=True)
class Demo:
    """A checkpoint that ships with the project, as its card describes it."""

    model: str
    weights: Path

    @cached_property
    def card(self) -> dict[str, object]:
        """What the training run wrote beside the weights."""
        card: dict[str, object] = json.loads(self.weights.with_suffix(".json").read_text())
        return card

    @property
    def imgsz(self) -> int:
        schedule = self.card["schedule"]
        assert isinstance(schedule, dict)
        return int(schedule["imgsz"])

    @property
    def classes(self) -> tuple[str, ...]:
        classes = self.card["classes"]
        assert isinstance(classes, list)
        return tuple(classes)


# apple/ml-cvnets feeds 0…1 pixels without normalisation; crop and interpolation as timm evaluates these weights.
_MOBILEVIT = Preprocessing(interpolation="bicubic", crop_pct=0.9)
_MOBILEVIT_SOURCE = "arXiv 2110.02178, table 4"

ENTRIES: dict[str, Entry] = {
    name: Entry(name, "mobilevit", "lvexport.models.mobilevit", parameters, 256, 32, _MOBILEVIT, _MOBILEVIT_SOURCE)
    for name, parameters in (
        ("mobilevit_xxs", 1_272_024),
        ("mobilevit_xs", 2_317_848),
        ("mobilevit_s", 5_578_632),
    )
}


def families() -> dict[str, str]:
    """Family alias → its smallest member."""
    smallest: dict[str, Entry] = {}
    for entry in ENTRIES.values():
        if entry.family not in smallest or entry.parameters < smallest[entry.family].parameters:
            smallest[entry.family] = entry
    return {family: entry.name for family, entry in smallest.items()}


def demo(name: str) -> Demo | None:
    """The checkpoint that ships for this network, if one does."""
    path = CHECKPOINTS / f"{name}.safetensors"
    return Demo(name, path) if path.is_file() else None
