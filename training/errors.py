"""What can be wrong with what was asked of a training. Each message is a whole paragraph for the user."""

from __future__ import annotations

from lvexport.models.errors import ModelError


class TrainingError(ModelError):
    """The training cannot be done as it was asked for."""


class DataError(TrainingError):
    """The training data are missing, unreadable or not in order."""
