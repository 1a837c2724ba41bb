"""What has to be done to a picture before a network sees it. Plain data: no torch here."""

from __future__ import annotations

from dataclasses import dataclass

INTERPOLATIONS = ("bilinear", "bicubic")


@dataclass(frozen=True)
class Preprocessing:
    """Resize the shorter side to ``imgsz / crop_pct``, crop the centre, scale to 0…1, take ``mean``, divide by ``std``.

    ``mean`` and ``std`` are RGB, in units of full scale. ``interpolation`` is one of INTERPOLATIONS.
    ``channels``, ``RGB`` or ``BGR``, is the order in which the network then takes the colours.
    """

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    interpolation: str = "bilinear"
    crop_pct: float = 1.0
    channels: str = "RGB"
