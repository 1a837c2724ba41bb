"""What a model takes and returns, as its description tells an app: arrays, images, a label, probabilities.

The description and the program say the same thing twice, each with something that the other lacks: the program
has the exact element types, the description says which arrays are images and which shapes a flexible input takes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from lvexport.validation.mil import types
from lvexport.validation.mil.errors import DamagedPackage, UnsupportedModel
from lvexport.validation.mil.program import Function
from lvexport.validation.mil.types import LARGEST_VALUE, DictType, Shape, StateType, TensorType, ValueType

Kind: TypeAlias = Literal["array", "image", "label", "probabilities"]
Layout: TypeAlias = Literal["RGB", "BGR", "GRAYSCALE", "GRAYSCALE_FLOAT16"]

# ``ImageFeatureType.ColorSpace`` in coremltools' ``mlmodel/format/FeatureTypes.proto``
LAYOUTS: Mapping[int, Layout] = {10: "GRAYSCALE", 20: "RGB", 30: "BGR", 40: "GRAYSCALE_FLOAT16"}
CHANNELS: Mapping[Layout, int] = {"RGB": 3, "BGR": 3, "GRAYSCALE": 1, "GRAYSCALE_FLOAT16": 1}


@dataclass(frozen=True)
class Feature:
    """One input or output of a model.

    Attributes:
        name: the key in the dictionaries that predict takes and returns.
        kind: array, image, label (str or int) or probabilities (a dictionary from label to float).
        shape: of the array, and for an image of the tensor (1, channels, height, width) that the program receives;
            None where the model takes several sizes. Empty for a label and for probabilities.
        dtype: NumPy's name of the element type (``float32``, ``float16``, ``int32``, …); for a label ``str`` or
            ``int64``; for probabilities that of its values.
        layout: of an image: the order in which the program receives the channels.
        choices: all shapes that a flexible input takes, if the description lists them.
        ranges: for each dimension of a flexible input, least and largest size (None: no limit), if it gives ranges.
        default: of an optional input, the value of every element where it is not given; None if it must be given.
        default_shape: the shape that is then taken; also what the description suggests for a flexible input.
    """

    name: str
    kind: Kind
    shape: Shape
    dtype: str
    layout: Layout | None = None
    choices: tuple[tuple[int, ...], ...] = ()
    ranges: tuple[tuple[int, int | None], ...] = ()
    default: float | None = None
    default_shape: tuple[int, ...] = ()

    @property
    def size(self) -> tuple[int | None, int | None] | None:
        """(width, height) of an image in pixels; None for other kinds."""
        return (self.shape[3], self.shape[2]) if self.kind == "image" else None

    def admits(self, shape: tuple[int, ...]) -> bool:
        """Whether the model takes an array of that shape for this input."""
        if not TensorType(types.FLOAT32, self.shape).admits(shape):
            return False
        if self.choices:
            return shape in self.choices
        # Ranges are given for every dimension or for none.
        bounds = zip(shape, self.ranges, strict=False)
        return all(least <= size and (most is None or size <= most) for size, (least, most) in bounds)


def read_inputs(description: Any, function: Function) -> tuple[Feature, ...]:
    """The inputs that a ``ModelDescription`` (or ``FunctionDescription``) message declares, in its order.

    Raises:
        DamagedPackage: the description and the program contradict each other.
        UnsupportedModel: an input of a kind that no MIL program takes.
    """
    declared = {value.name: value.type for value in function.inputs if not isinstance(value.type, StateType)}
    features = tuple(_input(message, _type_of(message.name, declared)) for message in description.input)
    missing = declared.keys() - {feature.name for feature in features}
    if missing:
        raise DamagedPackage(f"The program has inputs that the model description lacks: {', '.join(sorted(missing))}.")
    return features


def read_outputs(description: Any, function: Function) -> tuple[Feature, ...]:
    """The outputs that a ``ModelDescription`` (or ``FunctionDescription``) message declares, in its order.

    Raises:
        DamagedPackage: the description and the program contradict each other.
    """
    made = {value.name: value.type for operation in function.block.operations for value in operation.outputs}
    made |= {value.name: value.type for value in function.inputs}
    made |= {name: constant.type for name, constant in function.block.constants.items()}
    declared = {name: made[name] for name in function.block.outputs}
    return tuple(_output(message, _type_of(message.name, declared)) for message in description.output)


def _type_of(name: str, declared: Mapping[str, ValueType]) -> ValueType:
    if name not in declared:
        raise DamagedPackage(f"The model description has {name!r}, which the program does not take or return.")
    return declared[name]


def _input(message: Any, declared: ValueType) -> Feature:
    kind = message.type.WhichOneof("Type")
    if not isinstance(declared, TensorType):
        raise UnsupportedModel(f"The input {message.name!r} is not a tensor, which this interpreter does not take.")
    dtype = declared.dtype.numpy.name
    if kind == "imageType":
        return _image(message.name, message.type.imageType, declared, "input")
    if kind != "multiArrayType":
        raise UnsupportedModel(f"The input {message.name!r} is of kind {kind}, which MIL programs do not take.")
    array = message.type.multiArrayType
    choices = tuple(tuple(shape.shape) for shape in array.enumeratedShapes.shapes)
    ranges = tuple(_range(bounds) for bounds in array.shapeRange.sizeRanges)
    if ranges and len(ranges) != len(declared.shape):
        raise DamagedPackage(f"The input {message.name!r} has {len(ranges)} size ranges and type {declared}.")
    feature = Feature(message.name, "array", declared.shape, dtype, choices=choices, ranges=ranges)
    suggested = tuple(array.shape) if declared.shape else ()  # a number is described as an array of one element
    if math.prod(suggested) > LARGEST_VALUE:
        raise DamagedPackage(f"The input {message.name!r} is described with the shape {suggested}.")
    default = _default(array) if message.type.isOptional else None
    return replace(feature, default=default, default_shape=suggested)


def _default(message: Any) -> float:
    """What every element of an optional array is; 0 if nothing is said (``defaultOptionalValue``)."""
    given = message.WhichOneof("defaultOptionalValue")
    return float(getattr(message, given)) if given else 0.0


def _image(name: str, message: Any, declared: TensorType, role: Literal["input", "output"]) -> Feature:
    layout = LAYOUTS.get(message.colorSpace)
    if layout is None:
        raise DamagedPackage(f"The image {role} {name!r} has a color space that Core ML does not have.")
    channels = CHANNELS[layout]
    if len(declared.shape) != 4 or declared.shape[:2] != (1, channels):
        raise DamagedPackage(
            f"The image {role} {name!r} is {layout}, so in the program it should be a tensor of shape "
            f"(1, {channels}, height, width); it is {declared}."
        )
    # Images of one size only: the description states it too.
    if None not in declared.shape and (message.height, message.width) != declared.shape[2:]:
        raise DamagedPackage(
            f"The image {role} {name!r} is {message.width}×{message.height} pixels in the model description and "
            f"{declared.shape[3]}×{declared.shape[2]} in the program."
        )
    choices = tuple((1, channels, size.height, size.width) for size in message.enumeratedSizes.sizes)
    ranges: tuple[tuple[int, int | None], ...] = ()
    if message.WhichOneof("SizeFlexibility") == "imageSizeRange":
        height, width = message.imageSizeRange.heightRange, message.imageSizeRange.widthRange
        ranges = ((1, 1), (channels, channels), _range(height), _range(width))
    suggested = (1, channels, message.height, message.width)
    dtype = declared.dtype.numpy.name
    return Feature(name, "image", declared.shape, dtype, layout, choices, ranges, default_shape=suggested)


def _range(message: Any) -> tuple[int, int | None]:
    # A negative upper bound means none (``SizeRange`` in FeatureTypes.proto).
    return message.lowerBound, message.upperBound if message.upperBound >= 0 else None


def _output(message: Any, declared: ValueType) -> Feature:
    kind = message.type.WhichOneof("Type")
    if kind in ("stringType", "int64Type"):
        return Feature(message.name, "label", (), "str" if kind == "stringType" else "int64")
    if kind == "dictionaryType":
        if not isinstance(declared, DictType) or not isinstance(declared.value, TensorType):
            raise DamagedPackage(f"The output {message.name!r} is described as probabilities; the program differs.")
        return Feature(message.name, "probabilities", (), declared.value.dtype.numpy.name)
    if not isinstance(declared, TensorType):
        raise DamagedPackage(f"The output {message.name!r} is described as {kind}; in the program it is no tensor.")
    if kind == "imageType":
        return _image(message.name, message.type.imageType, declared, "output")
    return Feature(message.name, "array", declared.shape, declared.dtype.numpy.name)
