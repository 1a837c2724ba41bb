"""What MODEL on the command line means. Nothing is built or imported here: that happens in a cell."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lvexport.converters.contract import TensorSpec
from lvexport.errors import UnknownName, UsageError
from lvexport.models.containers import Carried, carried
from lvexport.models.errors import ModelError
from lvexport.models.preprocessing import Preprocessing
from lvexport.models.provenance import Provenance, Weights, choose_weights, describe, file_or_random
from lvexport.models.registry import ENTRIES, SHIPPED, families
from lvexport.overrides import NOTHING_SAID, Overrides, check_labels

DEFAULT_IMGSZ = 224  # for models of the user's own that do not say
FACTORY = "model"  # the name of a function that returns the model, where none is said
Kind = Literal["registry", "hf", "timm", "factory", "script", "program", "memory"]


@dataclass(frozen=True)
class Source:
    """Everything needed to build the original model in another process.

    ``digest`` tells two sources apart; it is None where only building the model can tell (a user's own code).
    ``layout``: whose spelling the checkpoint has, known once it has been read. ``overrides`` are already in ``labels``
    and ``preprocessing``; they are kept for what only building the model can tell. ``takes``: of a user's own code,
    the inputs that it is run with; one RGB picture of ``imgsz`` where there are none.
    """

    kind: Kind
    spec: str
    name: str
    imgsz: int
    weights: Weights
    weights_digest: str | None
    num_classes: int | None = None
    labels: tuple[str, ...] = ()
    preprocessing: Preprocessing = Preprocessing()
    digest: str | None = None
    layout: str | None = None
    overrides: Overrides = NOTHING_SAID
    takes: tuple[TensorSpec, ...] = ()

    @property
    def family(self) -> str | None:
        """Of a registry network, also of one in memory; None for all others."""
        known = self.kind in ("registry", "memory") and self.name in ENTRIES
        return ENTRIES[self.name].family if known else None

    @property
    def bundle_name(self) -> str:
        shipped = f"-{self.weights.kind}" if self.weights.kind in SHIPPED else ""
        return f"{self.name}{shipped}-{self.imgsz}"

    def provenance(self) -> Provenance:
        """The same, as the models' room says it. For registry networks only."""
        assert self.num_classes is not None
        p = self.preprocessing
        return Provenance(self.name, self.weights, self.num_classes, self.imgsz, self.labels, p, self.layout)


def from_provenance(provenance: Provenance, spec: str, overrides: Overrides = NOTHING_SAID) -> Source:
    """The source of a registry network."""
    p = provenance
    check_labels(overrides.labels, p.num_classes, p.name)
    weights_digest = p.weights.digest()
    identity = f"{p.name} {p.num_classes} {weights_digest}"
    return Source(
        "registry",
        spec,
        p.name,
        p.imgsz,
        p.weights,
        weights_digest,
        p.num_classes,
        overrides.labels or p.labels,
        overrides.preprocessing(p.preprocessing),
        hashlib.sha256(identity.encode()).hexdigest(),
        p.layout,
        overrides,
    )


def resolve(
    spec: str,
    weights: str = "auto",
    num_classes: int | None = None,
    imgsz: int | None = None,
    overrides: Overrides = NOTHING_SAID,
) -> Source:
    """Find out what ``spec`` is and whether it can be had, without building it.

    ``spec`` is a registry name, a family alias, ``hf:ID``, ``timm:NAME``, ``module:factory``, ``script.py[:factory]``
    or a ``.pt2`` file. Weights that are on the hub are downloaded here, but for those of which only timm knows.
    Raises UsageError (or ModelError) with the reason where it cannot.
    """
    name = families().get(spec, spec)
    if name in ENTRIES:
        described = describe(ENTRIES[name], choose_weights(name, weights), num_classes, imgsz)
        return from_provenance(described, spec, overrides)
    if spec.startswith(("hf:", "timm:")):
        from lvexport import hf, timm  # which make Sources, and so import this module

        resolver = hf.resolve if spec.startswith("hf:") else timm.resolve
        return resolver(spec, weights, num_classes, imgsz, overrides)
    if spec.endswith(".pt2"):
        return _program(Path(spec), weights, imgsz, overrides)
    script, _, factory = spec.partition(":")
    if script.endswith(".py"):
        if not Path(script).is_file():
            raise UsageError(f"There is no script at {script}. Check the path.")
        factory = factory or FACTORY
        named = f"{Path(script).resolve()}:{factory}"
        return _own("script", named, _named(Path(script).stem, factory), weights, imgsz, overrides)
    if factory:
        if not re.fullmatch(r"[\w.]+:[\w.]+", spec) or not _importable(script):
            raise UsageError(
                f"There is no module {script!r} to take {factory!r} from. module:factory names an importable module "
                "and a function in it that returns the model; for a file type script.py:factory."
            )
        return _own("factory", spec, _named(script.rpartition(".")[2], factory), weights, imgsz, overrides)
    raise UnknownName(
        "model",
        spec,
        [*ENTRIES, *families()],
        " Models of others are hf:ID and timm:NAME. A model of your own is module:factory, script.py:factory or a .pt2 "
        "file.",
    )


def plain_name(name: str) -> str:
    """A name for files and folders, from one that may have slashes and dots in it."""
    return re.sub(r"[^\w-]+", "-", name).strip("-") or "model"


def _named(home: str, factory: str) -> str:
    """What a model of one's own is called after: where its factory is, and after that too unless it has the usual name.

    Two of one script are then two bundles.
    """
    own = factory.rpartition(".")[2]
    return home if own == FACTORY else f"{home}-{own}"


def check_library(name: str) -> None:
    """Raise UsageError unless a library of other people's models is installed. Does not load it."""
    if importlib.util.find_spec(name) is None:
        raise UsageError(f"Models of {name} need {name}, which is not installed. Type: pip install 'lvexport[hub]'")


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _program(path: Path, weights: str, imgsz: int | None, overrides: Overrides) -> Source:
    if not path.is_file():
        raise UsageError(f"There is no program at {path}. A .pt2 file is what torch.export.save writes.")
    if weights != "auto" or imgsz is not None:
        raise UsageError(
            f"{path.name} carries its weights and its input size: leave --weights and --imgsz out, or export it anew."
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    # The size is read when the program is captured; 0 stands for "not known yet".
    return Source(
        "program",
        str(path.resolve()),
        path.stem,
        0,
        Weights("own", path.resolve()),
        digest,
        labels=overrides.labels,
        preprocessing=overrides.preprocessing(Preprocessing()),
        digest=digest,
        overrides=overrides,
    )


def _own(kind: Kind, spec: str, name: str, weights: str, imgsz: int | None, overrides: Overrides) -> Source:
    chosen, digest, said = file_or_random(weights), None, Carried()
    if chosen is None or chosen.path is None:  # the user's code draws or loads its own
        chosen = Weights("own", None)
    else:
        digest, said = chosen.digest(), carried(chosen.path)
    size = (said.imgsz or DEFAULT_IMGSZ) if imgsz is None else imgsz
    check_side(size)
    return Source(
        kind,
        spec,
        name,
        size,
        chosen,
        digest,
        labels=overrides.labels or said.classes,
        preprocessing=overrides.preprocessing(said.preprocessing or Preprocessing()),
        overrides=overrides,
    )


def check_side(imgsz: int) -> None:
    """Raise ModelError for a size that no picture has."""
    if imgsz < 1:
        raise ModelError(f"An image has at least one pixel a side; --imgsz {imgsz} cannot be built.")
