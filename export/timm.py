"""``timm:NAME``: the models of timm, by its own spelling. All that is known of them is in the library, so in a cell."""

from __future__ import annotations

import difflib
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lvexport.errors import UsageError
from lvexport.models import hub
from lvexport.models.errors import Absent
from lvexport.models.preprocessing import INTERPOLATIONS, Preprocessing
from lvexport.models.provenance import CHECKPOINT, PICKLED, RANDOM_SEED, Weights, check_count, file_or_random, of_hub
from lvexport.overrides import Overrides
from lvexport.source import Source, check_library, check_side, plain_name

if TYPE_CHECKING:
    from torch import nn

PREFIX = "timm:"


def resolve(spec: str, weights: str, num_classes: int | None, imgsz: int | None, overrides: Overrides) -> Source:
    """The source of a model of timm's, with what was typed; the rest is known once it has been built."""
    check_library("timm")
    name = spec.removeprefix(PREFIX)
    if not re.fullmatch(r"[\w.]+", name):
        raise UsageError(
            f"{spec} names no model. Type timm:NAME, with or without the tag of its weights, as timm does."
        )
    if imgsz is not None:
        check_side(imgsz)
    chosen = file_or_random(weights) or Weights("hub", None)
    digest = None if chosen.kind == "hub" else chosen.digest()
    # The size is read when the model is built; 0 stands for "not known yet".
    return Source("timm", spec, plain_name(name), imgsz or 0, chosen, digest, num_classes, overrides=overrides)


def build(source: Source) -> tuple[nn.Module, Source]:
    """Build the model; the source with its weights, size, classes and preprocessing. Raises UsageError."""
    timm = library()
    name = source.spec.removeprefix(PREFIX)
    published = pretrained_cfg(timm, name)
    weights = located(published, source)
    check_classes(source, weights, published.num_classes)
    model = create(timm, name, published, weights, source)
    data, classes = timm.data.resolve_model_data_config(model), getattr(model, "num_classes", published.num_classes)
    source = replace(
        source,
        imgsz=source.imgsz or data["input_size"][-1],
        num_classes=classes,
        weights=weights,
        weights_digest=weights.digest(),
        labels=source.overrides.labels or labels(published, classes),
        preprocessing=source.overrides.preprocessing(preprocessing(data, source.overrides.interpolation)),
        layout=None if weights.kind == "random" else "timm",
    )
    return fill(model, source), source


def library() -> Any:
    """timm itself. Its torchvision is often one that was built for another torch, and then does not load."""
    try:
        import timm
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(
            f"timm is installed and does not load ({reason}). It needs the torchvision that belongs to this torch: pip "
            "install torchvision from the index that torch came from, such as https://download.pytorch.org/whl/cpu"
        ) from error
    return timm


def pretrained_cfg(timm: Any, name: str) -> Any:
    """What timm knows of a model and its weights. Raises UsageError for names that it does not have."""
    base, _, tag = name.partition(".")
    if not timm.is_model(base):
        close = difflib.get_close_matches(base, timm.list_models(), n=1, cutoff=0.5)
        hint = f" Did you mean timm:{close[0]}?" if close else ""
        raise UsageError(f"timm {timm.__version__} has no model named {base!r}.{hint}")
    known = timm.list_pretrained(f"{base}.*")
    if tag and name not in known:
        there = f"There are: {', '.join(known)}." if known else "It has none for this model."
        raise UsageError(f"timm {timm.__version__} has no weights named {name}. {there}")
    return timm.get_pretrained_cfg(name)


def located(published: Any, source: Source) -> Weights:
    """The weights, fetched from the hub where they are to come from there."""
    if source.weights.kind != "hub" or source.weights.path is not None:
        return source.weights
    repo, _, revision = (published.hf_hub_id or "").partition("@")
    if not repo:
        raise UsageError(
            f"There are no weights for {source.spec} on the hub. Give a checkpoint with --weights PATH, or type "
            "--weights random to convert a network that has learned nothing."
        )
    name = published.hf_hub_filename or CHECKPOINT
    try:
        return of_hub(hub.fetch(repo, name, revision or hub.MAIN))
    except Absent:
        return of_hub(hub.fetch(repo, PICKLED, revision or hub.MAIN))


def check_classes(source: Source, weights: Weights, known: int) -> None:
    """timm would draw another classifier at random where the numbers of classes differ."""
    if source.num_classes is not None:
        check_count(source.num_classes)
    if weights.kind == "hub" and source.num_classes not in (None, known):
        raise UsageError(
            f"The weights of {source.spec} know {known} classes, not {source.num_classes}. Leave --num-classes out, or "
            "give a checkpoint of your own with --weights PATH."
        )


def create(timm: Any, name: str, published: Any, weights: Weights, source: Source) -> nn.Module:
    import torch

    options: dict[str, Any] = {} if source.num_classes is None else {"num_classes": source.num_classes}
    if published.fixed_input_size and source.imgsz:
        options["img_size"] = source.imgsz
    if weights.kind == "hub":  # timm's own reading, since it knows how its older files are to be taken
        options |= {"pretrained": True, "pretrained_cfg_overlay": {"file": str(weights.path)}}
    torch.manual_seed(RANDOM_SEED)
    try:
        model: nn.Module = timm.create_model(name, **options)
    except (RuntimeError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"timm {timm.__version__} cannot build {name} like this ({reason}).") from error
    return model


def fill(model: nn.Module, source: Source) -> nn.Module:
    """Give the model its numbers where timm itself has not."""
    from lvexport.models import weights as checkpoints
    from lvexport.models.build import settle

    if source.weights.kind == "random":
        settle(model, source.imgsz)
    if source.weights.kind == "file" and source.weights.path is not None:
        checkpoints.load(model, source.weights.path, {})
    return model


def labels(published: Any, classes: int) -> tuple[str, ...]:
    found = tuple(published.label_names or ())
    return found if len(found) == classes else ()


def preprocessing(data: dict[str, Any], interpolation: str | None) -> Preprocessing:
    """timm's data configuration, in our words. It feeds RGB to all of its models."""
    chosen = interpolation or data["interpolation"]
    if chosen not in INTERPOLATIONS:
        raise UsageError(
            f"The model's pictures are resized in a way that is not known here ({chosen}). Choose one with "
            "--interpolation bilinear or --interpolation bicubic."
        )
    return Preprocessing(tuple(data["mean"]), tuple(data["std"]), chosen, data["crop_pct"])
