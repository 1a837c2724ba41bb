"""The end of a classifier (``iOS15/classify.py``)."""

from __future__ import annotations

from torch import Tensor

from lvexport.validation.mil.table import op
from lvexport.validation.mil.values import Label


@op("classify")
def classify(probabilities: Tensor, classes: tuple[Label, ...]) -> tuple[Label, dict[Label, float]]:
    """The label with the largest probability (the first of equals), and the probability of every label."""
    values = probabilities.reshape(-1)
    if values.numel() != len(classes):
        raise ValueError(f"{len(classes)} labels are given for {values.numel()} probabilities")
    return classes[int(values.argmax())], dict(zip(classes, values.tolist(), strict=True))
