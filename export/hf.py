"""``hf:ID``: image classifiers of the Hugging Face hub, or of a folder in its form, through transformers.

What a model is, is read from its files, without the library. Building it, which happens in a cell, never runs code
that comes with a model.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from lvexport.errors import UsageError
from lvexport.models import hub
from lvexport.models.errors import Absent, WeightsError
from lvexport.models.provenance import CHECKPOINT, PICKLED, RANDOM_SEED, Weights, check_count, file_or_random
from lvexport.overrides import Overrides, check_labels
from lvexport.processors import own_size, preprocessing
from lvexport.source import DEFAULT_IMGSZ, Source, check_library, check_side, plain_name

if TYPE_CHECKING:
    from torch import nn

PREFIX = "hf:"
ID = re.compile(r"((?:[\w.-]+/)?[\w.-]+)(?:@([\w./-]+))?")
CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"


@dataclass(frozen=True)
class Origin:
    """Where a model's files are: in a repository at a commit, or in a folder of the user's."""

    name: str
    folder: Path
    repo: str | None = None
    revision: str | None = None

    @property
    def spec(self) -> str:
        return f"{PREFIX}{self.repo or self.folder}"

    def file(self, name: str) -> Path | None:
        """One of the files, or None where the model has none of that name."""
        if self.repo is None or self.revision is None:
            path = self.folder / name
            return path if path.is_file() else None
        found = hub.fetch_if_any(self.repo, name, self.revision)
        return found.path if found else None

    def document(self, name: str) -> dict[str, Any]:
        """A JSON file of the model's, or nothing where it has none."""
        path = self.file(name)
        try:
            found = json.loads(path.read_text(encoding="utf-8")) if path else {}
        except ValueError as error:
            raise UsageError(f"{path} is no JSON ({error}). Download or save the model again.") from error
        return found if isinstance(found, dict) else {}


def resolve(spec: str, weights: str, num_classes: int | None, imgsz: int | None, overrides: Overrides) -> Source:
    """The source of a model of transformers. Downloads it where it is on the hub and not in the cache yet."""
    check_library("transformers")
    origin = locate(spec.removeprefix(PREFIX))
    config = origin.document(CONFIG)
    check_config(origin, config)
    given, known = file_or_random(weights), labels(config)
    classes = len(known) if num_classes is None else num_classes
    check_classes(origin, len(known) if given is None else classes, classes)
    check_labels(overrides.labels, classes, origin.name)
    processor = origin.document(PROCESSOR)
    native = own_size(config, processor) or DEFAULT_IMGSZ
    size = native if imgsz is None else imgsz
    check_side(size)
    prepared = overrides.preprocessing(preprocessing(processor, native, overrides.interpolation))
    # What may take long comes last.
    chosen = replace(given or trained(origin), repo=origin.repo, revision=origin.revision)
    digest = chosen.digest()
    identity = json.dumps([config, classes, digest, version("transformers")], sort_keys=True)
    named = overrides.labels or (() if len(known) != classes or all(map(unnamed, known)) else known)
    return Source(
        "hf",
        origin.spec,
        origin.name,
        size,
        chosen,
        digest,
        classes,
        named,
        prepared,
        hashlib.sha256(identity.encode()).hexdigest(),
        overrides=overrides,
    )


def locate(given: str) -> Origin:
    """A folder where a path was typed, else a repository, of which the configuration is fetched."""
    if given.startswith((".", "/", "~")):
        folder = Path(given).expanduser().resolve()
        if not (folder / CONFIG).is_file():
            raise UsageError(f"There is no {CONFIG} in {folder}. hf:FOLDER names what save_pretrained has written.")
        return Origin(plain_name(folder.name), folder)
    match = ID.fullmatch(given)
    if match is None:
        raise UsageError(f"hf:{given} names no model. Type hf:OWNER/NAME, hf:OWNER/NAME@REVISION, or hf:./FOLDER.")
    repo, revision = match[1], match[2] or hub.MAIN
    try:
        found = hub.fetch(repo, CONFIG, revision)
    except Absent as error:
        raise UsageError(f"hf:{given} is no model that can be had. {error}") from error
    return Origin(plain_name(repo), hub.folder(repo, found.revision), repo, found.revision)


def check_config(origin: Origin, config: dict[str, Any]) -> None:
    """Raise UsageError for models that transformers alone cannot build."""
    if "model_type" in config:
        return
    if "architecture" in config:
        name = (origin.repo or origin.name).rpartition("/")[2]
        raise UsageError(f"{origin.spec} is a model of timm's. Type timm:{name} in its place.")
    raise UsageError(
        f"{origin.spec} does not say what it is: its {CONFIG} has no model_type. hf: takes what transformers has saved."
    )


def trained(origin: Origin) -> Weights:
    """The weights that the model has where it comes from."""
    path = origin.file(CHECKPOINT) or origin.file(PICKLED)
    if path is None:
        raise WeightsError(
            f"{origin.spec} has its weights neither in {CHECKPOINT} nor in {PICKLED}. Give them with --weights PATH, "
            "or type --weights random."
        )
    return Weights("file" if origin.repo is None else "hub", path)


def labels(config: dict[str, Any]) -> tuple[str, ...]:
    """One label for each class, as transformers has them. It counts two classes where nothing is said."""
    known = config.get("id2label")
    if isinstance(known, dict) and known:
        return tuple(str(known[key]) for key in sorted(known, key=int))
    count = config.get("num_labels", len(config.get("label2id") or {}) or 2)
    return tuple(f"LABEL_{i}" for i in range(count))


def unnamed(label: str) -> bool:
    """Whether a label is the placeholder that transformers writes where it was given none."""
    return re.fullmatch(r"LABEL_\d+", label) is not None


def check_classes(origin: Origin, known: int, asked: int) -> None:
    """Raise UsageError unless the weights, which know so many classes, can be asked for as many."""
    check_count(asked)
    if asked != known:
        raise UsageError(
            f"{origin.spec} knows {known} classes, not {asked}. Leave --num-classes out, or give a checkpoint of your "
            "own with --weights PATH."
        )


def build(source: Source) -> tuple[nn.Module, Source]:
    """Build the model, and say whose spelling its weights have. Raises UsageError where transformers cannot."""
    import torch
    import transformers

    from lvexport.models import weights as checkpoints
    from lvexport.models.build import settle

    w = source.weights
    folder = hub.folder(w.repo, w.revision) if w.repo and w.revision else Path(source.spec.removeprefix(PREFIX))
    transformers.utils.logging.set_verbosity_error()
    torch.manual_seed(RANDOM_SEED)
    try:
        if w.path is not None and w.path.parent == folder:
            return answering(load(source, folder)), replace(source, layout="transformers")
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        config.num_labels = source.num_classes
        model = transformers.AutoModelForImageClassification.from_config(config, trust_remote_code=False)
    except (ValueError, OSError, KeyError, ImportError, UnpicklingError) as error:
        raise cannot(source, error) from error
    if w.path is None:
        wrapped = answering(model)
        settle(wrapped, source.imgsz)
        return wrapped, source
    checkpoints.load(model, w.path, {})
    return answering(model), replace(source, layout="transformers")


def load(source: Source, folder: Path) -> nn.Module:
    """The model with the weights that lie beside its configuration, all of them and nothing else."""
    import torch
    import transformers

    model: nn.Module
    model, found = transformers.AutoModelForImageClassification.from_pretrained(
        folder,
        local_files_only=True,
        trust_remote_code=False,
        weights_only=True,
        dtype=torch.float32,
        output_loading_info=True,
    )
    lacking = [*map(str, found["missing_keys"]), *map(str, found["mismatched_keys"])]
    if lacking:
        raise UsageError(
            f"{source.spec} was not trained as an image classifier: {len(lacking)} of its tensors are missing "
            f"({', '.join(sorted(lacking)[:3])}), and transformers would draw them at random. Name a model that was."
        )
    return model


def answering(model: nn.Module) -> nn.Module:
    """The model as (N, 3, H, W) → (N, classes); transformers' own answers are objects."""
    from torch import Tensor, nn

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, image: Tensor) -> Tensor:
            logits: Tensor = self.model(pixel_values=image).logits
            return logits

    return Logits()


def cannot(source: Source, error: Exception) -> UsageError:
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return UsageError(
        f"transformers {version('transformers')} cannot build {source.spec} as an image classifier ({reason}). Code "
        "that comes with a model is never run; if that is what it needs, build it in a script of yours and name "
        "script.py:factory."
    )
