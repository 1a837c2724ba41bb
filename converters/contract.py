"""What a converter is given, and what it hands back.

A converter is one module here. It takes a captured program and writes one artifact; it knows nothing of registry
names, command lines or bundles, and it loads its libraries only when it is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor
    from torch.export import ExportedProgram
    from torch.fx import GraphModule


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and dtype (numpy's spelling, such as ``float32``) of an input or output."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Integers:
    """Weights of convolutions and linear layers as integers times a scale, symmetric about zero.

    ``bits``: of each. ``block``: about how many input channels of one output channel share a scale; None: all of them.
    ``whole``: just as many, and all of them where their number is no multiple of that. ``kernels``: what weights of
    convolutions that look at more than one place are rounded to, and ``grouped`` those of convolutions in groups; None:
    the same. Where ``kernels`` is given, a convolution that looks at one place only is computed as a linear layer.
    ``half``: scales are kept in half precision. ``palette``: a weight's integers are places in a palette of its own, of
    2 ** ``bits`` numbers in half precision, and nothing is times a scale.
    """

    bits: int
    block: int | None = None
    whole: bool = False
    kernels: Integers | None = None
    grouped: Integers | None = None
    half: bool = False
    palette: bool = False

    @property
    def largest(self) -> int:
        """Its negative is the smallest."""
        return int(2 ** (self.bits - 1)) - 1

    @property
    def forms(self) -> tuple[Integers, ...]:
        """All that weights may be rounded to, those first that have the fewest scales."""
        found = dict.fromkeys(form for form in (self, self.kernels, self.grouped) if form is not None)
        return tuple(sorted(found, key=lambda form: form.block is not None))

    @property
    def scaled(self) -> tuple[Integers, ...]:
        """Those of the forms that are integers times scales."""
        return tuple(form for form in self.forms if not form.palette)


@dataclass(frozen=True)
class Budget:
    """What rounding to integers may cost.

    ``drop``: of accuracy, as a share of all inputs, where their classes are known. ``retrieval``: the agreement that is
    left at least, ``among`` so many inputs, where that says more than those it was found over.
    """

    drop: float = 0.01
    retrieval: float = 0.95
    among: int = 0


BUDGET = Budget()


@dataclass(frozen=True)
class Recipe:
    """A precision of arithmetic and, where they are another, of weights.

    ``significand_bits`` counts the hidden one: 24 for float32, 11 for float16 (IEEE 754). ``activations``: bits of
    whole numbers that convolutions and linear layers are given and give; None where these stay floating point.
    ``fitted``: weights are rounded so that what layers give over calibration inputs stays.
    ``gates``: the target computes x·sigmoid(x) between two such layers in whole numbers too.
    ``mixed``: only as many of these layers as a budget allows. ``narrow``: what as many of their weights as it then
    allows are rounded to, fewer bits than ``weights`` has; None for none. ``requires`` has the values that an option of
    the target may then have, the first of them the default. ``dynamic``: the target may compute layers with integer
    weights in integers, and then rounds what they take as it comes (:func:`rounds_activations`). ``squares``: squares
    of activations stay in the range in which the target computes them. ``method``: in a few words, how the target does
    it.
    """

    name: str
    summary: str
    significand_bits: int
    weights: Integers | None = None
    fitted: bool = False
    activations: int | None = None
    mixed: bool = False
    narrow: Integers | None = None
    gates: bool = False
    dynamic: bool = False
    squares: bool = True
    method: str = ""
    requires: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Normalisation:
    """(x/255 - mean) / std, RGB: what the program expects to have been done to the pixels.

    ``channels``, ``RGB`` or ``BGR``, is the order in which it then takes the colours.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channels: str = "RGB"

    def in_order(self, values: tuple[float, float, float]) -> tuple[float, float, float]:
        """One number a colour, RGB, in the program's order."""
        red, green, blue = values
        return values if self.channels == "RGB" else (blue, green, red)


@dataclass(frozen=True)
class Captured:
    """A program as ``torch.export`` saved it (``.pt2``), with what the file does not say.

    For a recipe with integer weights, its weights are rounded already: each is a whole number times its scale. For one
    with integer activations as well, all roundings are in the program, as operations of ``quantized_decomposed``.
    """

    path: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    normalisation: Normalisation | None = None  # None where the input is not a picture
    labels: tuple[str, ...] = ()

    def program(self) -> ExportedProgram:
        """Load the program. Costs an import of torch."""
        import torch
        import torch.ao.quantization.fx._decomposed  # which defines the operations that round

        return torch.export.load(self.path)

    def module(self) -> tuple[GraphModule, tuple[Tensor, ...]]:
        """The program as a module, and inputs like those that it was captured with, for what captures it itself."""
        from lvexport.converters.derived import examples

        program = self.program()
        return program.module(), examples(program)


@dataclass(frozen=True)
class Choice:
    """An option of one target: its values, the first of them the default; with ``number``, also any whole number."""

    values: tuple[str, ...]
    summary: str
    number: bool = False

    def takes(self, value: str) -> bool:
        return value in self.values or (self.number and value.isdecimal() and int(value) > 0)


@dataclass(frozen=True)
class Request:
    """How to convert: the recipe, and a value for each option that the converter declares."""

    recipe: Recipe
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Delegation:
    """What a program hands to a backend: in how many parts, and each operator that stayed outside with the reason."""

    calls: int
    outside: dict[str, str]


DYNAMIC, FLOAT = "dynamic", "float"
ACTIVATIONS = Choice(
    (DYNAMIC, FLOAT), "what layers with integer weights take: rounded to 8 bits as it comes, or in floating point"
)


def rounds_activations(recipe: Recipe, options: Mapping[str, str]) -> bool:
    """Whether an artifact rounds what its layers take to 8 bits, over the range that it has in that inference."""
    return recipe.dynamic and options.get("activations", DYNAMIC) == DYNAMIC


@dataclass(frozen=True)
class Notes:
    """How it was converted, for the manifest. ``route`` names what the converter was given.

    ``delegation`` is set where the artifact is a program of which parts go to a backend. ``sqnr_db``: what rewriting
    for inference left of the captured program's outputs; None where nothing was rewritten. ``beside``: the names of
    files that were written beside the artifact.
    """

    route: str
    remarks: tuple[str, ...] = ()
    delegation: Delegation | None = None
    sqnr_db: float | None = None
    beside: tuple[str, ...] = ()


class Converter(Protocol):
    """One target. The module's instance of it is called ``CONVERTER``."""

    @property
    def name(self) -> str: ...
    @property
    def summary(self) -> str: ...
    @property
    def backend(self) -> str: ...
    @property
    def suffix(self) -> str:
        """Of the artifact, such as ``.mlpackage``."""
        ...

    @property
    def distributions(self) -> tuple[str, ...]:
        """What has to be installed."""
        ...

    @property
    def modules(self) -> tuple[str, ...]:
        """What converting imports and takes long to, so that it can be imported ahead, once for many conversions.

        Nothing that starts threads: what has threads is not forked.
        """
        ...

    @property
    def seconds(self) -> int:
        """What a light network took on one core, converted and run over the sample: the longest are begun first."""
        ...

    @property
    def recipes(self) -> Mapping[str, Recipe]: ...
    @property
    def refusals(self) -> Mapping[str, str]:
        """Recipe that it does not have → why."""
        ...

    @property
    def options(self) -> Mapping[str, Choice]: ...

    def convert(self, captured: Captured, request: Request, out: Path) -> Notes:
        """Write the artifact at ``out``, which does not exist yet. Raises whatever the library raises."""
        ...


class ConversionError(Exception):
    """The converter cannot do what was asked; the message says why, for the user."""


class TooLarge(ConversionError):
    """An artifact needs more memory than there is: bytes of each kind that it ``needs``, and the ``limits`` given."""

    def __init__(self, message: str, needs: Mapping[str, int], limits: Mapping[str, int]) -> None:
        super().__init__(message)
        self.needs, self.limits = needs, limits
