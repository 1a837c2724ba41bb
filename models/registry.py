"""The networks that can be asked for by name. Plain data, so that listing them does not load torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lvexport.models.errors import SizeError
from lvexport.models.preprocessing import Preprocessing

CHECKPOINTS = Path(__file__).parent / "checkpoints"
# Kind of weights that ship → what follows the network's name in the file's. A demo tells clothes apart; a witness was
# trained for a task that needs the global part of the network, so that more is seen of what an artifact has lost.
SHIPPED = {"demo": "", "witness": "-witness"}


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
    repo: str = ""  # on the hub, with the official checkpoint as model.safetensors; empty where none is known

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


IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# 224 pixels out of 256 in snap-research/EfficientFormer, util/datasets.py, for both versions (timm crops to 0.95).
SNAP = Preprocessing(IMAGENET_MEAN, IMAGENET_STD, "bicubic", 224 / 256)


def _family(
    family: str,
    imgsz: int,
    preprocessing: Preprocessing,
    source: str,
    parameters: dict[str, int],
    module: str = "",
    tag: str = "",
) -> dict[str, Entry]:
    """Entries of one family, which differ in nothing but their parameters. All have a total stride of 32.

    ``tag``: what timm calls the official weights of the family on the hub (default_cfgs of its model files).
    """
    module = f"lvexport.models.{module or family}"
    return {
        name: Entry(
            name, family, module, count, imgsz, 32, preprocessing, source, repo=f"timm/{name}.{tag}" if tag else ""
        )
        for name, count in parameters.items()
    }


ENTRIES: dict[str, Entry] = {
    # apple/ml-cvnets feeds 0…1 pixels without normalisation; crop and interpolation as timm evaluates these weights.
    **_family(
        "mobilevit",
        256,
        Preprocessing(interpolation="bicubic", crop_pct=0.9),
        "arXiv 2110.02178, table 4",
        {"mobilevit_xxs": 1_272_024, "mobilevit_xs": 2_317_848, "mobilevit_s": 5_578_632},
        tag="cvnets_in1k",
    ),
    # Likewise; 256 pixels out of 288 in apple/ml-cvnets, config/classification/imagenet/mobilevit_v2.yaml.
    **_family(
        "mobilevitv2",
        256,
        Preprocessing(interpolation="bicubic", crop_pct=256 / 288),
        "arXiv 2206.02680; counts of apple/ml-cvnets",
        {
            "mobilevitv2_050": 1_370_593,
            "mobilevitv2_075": 2_866_009,
            "mobilevitv2_100": 4_901_841,
            "mobilevitv2_125": 7_478_089,
            "mobilevitv2_150": 10_594_753,
            "mobilevitv2_175": 14_251_833,
            "mobilevitv2_200": 18_449_329,
        },
        module="mobilevit_v2",
        tag="cvnets_in1k",
    ),
    # AAboys/MobileFormer, mobile_former.py, _cfg.
    **_family(
        "mobile_former",
        224,
        Preprocessing(IMAGENET_MEAN, IMAGENET_STD, "bilinear", 0.875),
        "arXiv 2108.05895; counts of AAboys/MobileFormer",
        {
            "mobile_former_26m": 3_232_788,
            "mobile_former_52m": 3_469_092,
            "mobile_former_96m": 4_585_252,
            "mobile_former_151m": 7_595_828,
            "mobile_former_214m": 9_425_920,
            "mobile_former_294m": 11_422_648,
            "mobile_former_508m": 13_976_976,
        },
    ),
    **_family(
        "efficientformer",
        224,
        SNAP,
        "arXiv 2206.01191; counts of snap-research/EfficientFormer",
        {"efficientformer_l1": 12_289_928, "efficientformer_l3": 31_406_000, "efficientformer_l7": 82_229_328},
        tag="snap_dist_in1k",
    ),
    **_family(
        "efficientformer",
        224,
        SNAP,
        "lvexport's own, after arXiv 2206.01191",
        {"efficientformer_nano": 3_135_792},
    ),
    **_family(
        "efficientformerv2",
        224,
        SNAP,
        "arXiv 2212.08059; counts of snap-research/EfficientFormer",
        {
            "efficientformerv2_s0": 3_600_256,
            "efficientformerv2_s1": 6_185_560,
            "efficientformerv2_s2": 12_710_112,
            "efficientformerv2_l": 26_322_288,
        },
        module="efficientformer_v2",
        tag="snap_dist_in1k",
    ),
}


def families() -> dict[str, str]:
    """Family alias → its smallest member."""
    smallest: dict[str, Entry] = {}
    for entry in ENTRIES.values():
        if entry.family not in smallest or entry.parameters < smallest[entry.family].parameters:
            smallest[entry.family] = entry
    return {family: entry.name for family, entry in smallest.items()}


def demo(name: str, kind: str = "demo") -> Demo | None:
    """The checkpoint of that kind, a key of SHIPPED, that ships for this network, if one does."""
    path = CHECKPOINTS / f"{name}{SHIPPED[kind]}.safetensors"
    return Demo(name, path) if path.is_file() else None
