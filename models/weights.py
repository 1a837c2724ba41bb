"""Reading checkpoints: whatever the container and the spelling of the keys, all of it fits or nothing is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lvexport.models.containers import check_container, is_safetensors
from lvexport.models.errors import WeightsError
from lvexport.models.layouts import OWN, Layout, State, translate

# Where training loops keep the weights inside a checkpoint, the averaged ones first. The names are timm's, DeiT's
# (which snap-research trains with) and ml-cvnets'.
WRAPPERS = ("state_dict_ema", "model_ema", "ema_state_dict", "state_dict", "model", "model_state_dict")
# What data parallelism and torch.compile put before every name.
PREFIXES = ("module.", "_orig_mod.")


@dataclass(frozen=True)
class Misfit:
    """How a checkpoint, read in one layout, differs from what the network needs."""

    layout: str
    missing: list[str]
    unexpected: list[str]
    misshapen: list[str]

    @property
    def count(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.misshapen)


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file, keys as they are spelled there.

    Pickled files are opened with ``weights_only=True``: one that would run code is refused.
    """
    check_container(path)
    with path.open("rb") as file:
        head = file.read(9)
    try:
        loaded = (
            load_file(path) if is_safetensors(path, head) else torch.load(path, map_location="cpu", weights_only=True)
        )
    except UnpicklingError as error:
        raise WeightsError(
            f"{path} is refused: it is a pickle that contains more than tensors, and opening it could run any code. "
            "Save only the state dict (torch.save(model.state_dict(), …)), or better a .safetensors file."
        ) from error
    except Exception as error:  # a damaged file can make the readers raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path} cannot be read as a checkpoint ({reason}). Download or save it again.") from error
    return tensors(loaded, path)


def tensors(loaded: object, path: Path) -> dict[str, Tensor]:
    """The state dict inside a loaded object, unwrapped, without a prefix that every name has."""
    while isinstance(loaded, Mapping):
        inner = next((loaded[key] for key in WRAPPERS if isinstance(loaded.get(key), Mapping)), None)
        if inner is None:
            break
        loaded = inner
    state = {str(k): v for k, v in loaded.items() if isinstance(v, Tensor)} if isinstance(loaded, Mapping) else {}
    if not state:
        raise WeightsError(f"{path} holds no tensors. A checkpoint is a state dict: names with their tensors.")
    while prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def fit(state: State, wanted: State) -> dict[str, Tensor]:
    """The same numbers in the shapes wanted, wherever the two differ in dimensions of length 1 only.

    A 1×1 convolution and a linear layer hold the same matrix, a scale of (C, 1, 1) the same vector as one of (C,).
    """

    def fitted(key: str, value: Tensor) -> Tensor:
        same = key in wanted and lengths(value) == lengths(wanted[key])
        return value.reshape(wanted[key].shape) if same else value

    return {key: fitted(key, value) for key, value in state.items()}


def lengths(value: Tensor) -> list[int]:
    return [length for length in value.shape if length != 1]


def compare(state: State, model: nn.Module, layout: str) -> Misfit:
    """What would stand in the way of loading ``state`` into ``model``. Batch counters may be absent."""
    wanted = model.state_dict()
    return Misfit(
        layout,
        missing=sorted(k for k in wanted.keys() - state.keys() if not k.endswith("num_batches_tracked")),
        unexpected=sorted(state.keys() - wanted.keys()),
        misshapen=sorted(
            f"{k} ({shape(state[k])} in the file, {shape(wanted[k])} in the network)"
            for k in state.keys() & wanted.keys()
            if state[k].shape != wanted[k].shape
        ),
    )


def shape(value: Tensor) -> str:
    return "×".join(map(str, value.shape)) or "scalar"


def load(model: nn.Module, path: Path, layouts: Mapping[str, Layout]) -> str:
    """Load a checkpoint file into ``model`` and return the name of the layout that its keys follow.

    Raises WeightsError, with the model untouched, unless everything fits.
    """
    state = read(path)
    closest: Misfit | None = None
    for name, layout in {"lvexport": OWN, **layouts}.items():
        candidate = fit(translate(state, layout), model.state_dict())
        misfit = compare(candidate, model, name)
        if misfit.count == 0:
            model.load_state_dict(candidate, strict=False)
            return name
        if closest is None or misfit.count < closest.count:
            closest = misfit
    assert closest is not None
    raise WeightsError(explain(path, closest))


def explain(path: Path, misfit: Misfit) -> str:
    """One paragraph on why a checkpoint does not fit."""
    parts = [
        f"{len(keys)} {label} ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''})"
        for label, keys in (
            ("missing", misfit.missing),
            ("left over", misfit.unexpected),
            ("of the wrong shape", misfit.misshapen),
        )
        if keys
    ]
    only_head = misfit.misshapen and all(key.startswith("classifier.") for key in misfit.misshapen)
    hint = (
        "Only the classifier differs: give the file's number of classes with --num-classes."
        if only_head and not misfit.missing and not misfit.unexpected
        else "Check that the file was saved from this network. Nothing was loaded."
    )
    return f"{path} does not fit. Read in the closest layout, {misfit.layout}, it has {'; '.join(parts)}. {hint}"
