"""Random tensors (``iOS15/random.py``).

What is documented is the distribution and that a seed makes the values reproducible; Core ML's generator is not.
Here a seed gives the same values at every prediction, and without one (-1) they come from torch's global
generator, which ``torch.manual_seed`` sets.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from lvexport.validation.mil import types
from lvexport.validation.mil.call import Call
from lvexport.validation.mil.table import op


@op("random_bernoulli")
def random_bernoulli(shape: tuple[int, ...], call: Call, prob: float = 0.5, seed: int = -1) -> Tensor:
    """1 with probability ``prob``, 0 otherwise."""
    return (_uniform(shape, seed, call) < prob).float()


@op("random_categorical")
def random_categorical(x: Tensor, call: Call, mode: str = "logits", size: int = 1, seed: int = -1) -> Tensor:
    """x [*D, classes] → [*D, size] class numbers, drawn with replacement."""
    if mode not in ("logits", "probs"):
        raise ValueError(f"random_categorical has no mode {mode!r}")
    call.expect((*x.shape[:-1], size))
    weights = x.float() if mode == "probs" else torch.softmax(x.float(), -1)
    rows = weights.reshape(-1, x.shape[-1])
    drawn = torch.multinomial(rows, size, replacement=True, generator=_generator(seed))
    return drawn.reshape(*x.shape[:-1], size).float()


@op("random_normal")
def random_normal(shape: tuple[int, ...], call: Call, mean: float = 0.0, stddev: float = 1.0, seed: int = -1) -> Tensor:
    call.expect(shape)
    return mean + stddev * torch.randn(shape, generator=_generator(seed))


@op("random_uniform")
def random_uniform(shape: tuple[int, ...], call: Call, low: float = 0.0, high: float = 1.0, seed: int = -1) -> Tensor:
    """low ≤ value < high, also after rounding; ``low`` where both are equal."""
    values = low + (high - low) * _uniform(shape, seed, call)
    precision = np.float16 if call.dtype is types.FLOAT16 else np.float32
    return values if low == high else values.clamp(max=float(np.nextafter(precision(high), precision(-math.inf))))


def _uniform(shape: tuple[int, ...], seed: int, call: Call) -> Tensor:
    call.expect(shape)
    return torch.rand(shape, generator=_generator(seed))


def _generator(seed: int) -> torch.Generator | None:
    return None if seed == -1 else torch.Generator().manual_seed(seed)
