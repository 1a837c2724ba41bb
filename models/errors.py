"""What can be wrong with a model that was asked for. Each message is a whole paragraph for the user."""

from __future__ import annotations


class ModelError(ValueError):
    """The request cannot be met as it was typed."""


class SizeError(ModelError):
    """The network does not take images of this size."""


class WeightsError(ModelError):
    """The weights are missing, unreadable, unsafe or made for another network."""


class HubError(WeightsError):
    """A file of the hub cannot be had, or not as it should be."""


class Unreachable(HubError):
    """The hub does not answer."""


class Absent(HubError):
    """The hub has no such file, or does not show it."""
