"""What rounding cost, as the search measures it. Importing this loads torch."""

from __future__ import annotations

import torch
from torch import Tensor

from lvexport.converters.quantization.settings import Loss


def loss(reference: Tensor, measured: Tensor, labels: Tensor | None) -> Loss:
    """Of ``measured`` beside ``reference``, both (n, features)."""
    signal = reference.double().square().sum().clamp_min(torch.finfo(torch.double).tiny)
    noise = float((measured - reference).double().square().sum() / signal)
    drop = None if labels is None else accuracy(reference, labels) - accuracy(measured, labels)
    return Loss(len(reference), noise, drop, retrieval(reference, measured))


def accuracy(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(1) == labels).double().mean())


def retrieval(reference: Tensor, measured: Tensor) -> float:
    """Share of inputs whose measured output has its own reference as the nearest (docs/verdict.md)."""
    distances = torch.cdist(measured.double(), reference.double())
    return float((distances.diagonal() <= distances.amin(1)).double().mean())
