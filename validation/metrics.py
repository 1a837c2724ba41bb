"""How far an artifact's outputs are from the original's. Arrays are (samples, …); the first axis is the sample."""

from __future__ import annotations

import numpy as np

from lvexport.validation.contract import Array


def flat(values: Array) -> Array:
    """(n, …) → (n, features) in double precision."""
    return np.asarray(values, np.float64).reshape(len(values), -1)


# Double precision itself ends at 319 dB. A finite bound lets JSON hold the figure.
LIMIT_DB = 300.0


def sqnr_db(reference: Array, measured: Array) -> float:
    """Signal to quantization noise ratio, 10·log10(Σr² / Σ(m-r)²), in dB, between -300 and 300.

    Equal outputs give 300, outputs that are not all finite -300.
    """
    r, m = flat(reference), flat(measured)
    if not np.isfinite(m).all():
        return -LIMIT_DB
    noise, signal = float(np.square(m - r).sum()), float(np.square(r).sum())
    if noise == 0:
        return LIMIT_DB
    if signal == 0:
        return -LIMIT_DB
    return float(np.clip(10 * np.log10(signal / noise), -LIMIT_DB, LIMIT_DB))


def max_abs_error(reference: Array, measured: Array) -> float | None:
    """Largest difference between two numbers, in the outputs' own unit; None where an output is not finite."""
    difference = np.abs(flat(measured) - flat(reference))
    return float(difference.max()) if np.isfinite(difference).all() else None


def cosine(reference: Array, measured: Array) -> float:
    """Mean over the samples of the cosine between the two outputs, -1 to 1."""
    r, m = flat(reference), flat(measured)
    if not np.isfinite(m).all():
        return 0.0
    lengths = np.linalg.norm(r, axis=1) * np.linalg.norm(m, axis=1)
    products = (r * m).sum(axis=1)
    return float(np.mean(np.where(lengths > 0, products / np.where(lengths > 0, lengths, 1), 1.0)))


def top1(values: Array) -> Array:
    """(n,) index of each sample's largest output."""
    return np.asarray(flat(np.nan_to_num(values, nan=-np.inf)).argmax(axis=1))


def top1_agreement(reference: Array, measured: Array) -> float:
    """Share of samples on which both put the same class first."""
    return float((top1(reference) == top1(measured)).mean())


def disagreement_margin(reference: Array, measured: Array) -> float | None:
    """Largest lead that the original gave its own first class where the artifact put another first.

    In the outputs' unit; None where they agree everywhere. A margin as small as the rounding error is a tie.
    """
    r, mine, theirs = flat(reference), top1(reference), top1(measured)
    apart = np.flatnonzero(mine != theirs)
    if not len(apart):
        return None
    return float((r[apart, mine[apart]] - r[apart, theirs[apart]]).max())


def accuracy(values: Array, labels: Array) -> float:
    """Share of samples whose largest output is at the label."""
    return float((top1(values) == labels).mean())


def retrieval_agreement(reference: Array, measured: Array) -> float:
    """Share of samples whose measured output is nearer to its own reference than to any other's (Euclidean).

    Outputs that the original itself gives alike cannot be told apart, so one that is as near counts as its own.
    """
    r, m = flat(reference), flat(measured)
    if not np.isfinite(m).all():
        return 0.0
    # |m - r|² without |m|², which is the same for all candidates; centred, so that a common offset costs no digits.
    centre = r.mean(axis=0)
    r, m = r - centre, m - centre
    nearest = (np.square(r).sum(axis=1)[None, :] - 2 * m @ r.T).argmin(axis=1)
    own = np.square(m - r).sum(axis=1)
    found = np.square(m - r[nearest]).sum(axis=1)
    return float((own <= found).mean())
