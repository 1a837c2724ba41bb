"""What targets that write Core ML packages have in common."""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lvexport.converters import recipes
from lvexport.converters.contract import Choice, Integers, Recipe
from lvexport.converters.recipes import FLOATS, HALF_BITS, P4, SINGLE_BITS, W4, W8, halved

# Bits of the significand → what coremltools calls the precision of the arithmetic.
PRECISIONS = {SINGLE_BITS: "FLOAT32", HALF_BITS: "FLOAT16"}
MIN_IOS = Choice(("17", "15", "16", "18"), "oldest iOS that has to load the package")
# Integer weights come with half precision, in which all of Apple's processors compute. Core ML has constants that it
# decompresses from iOS 16 on, palettes among them, and blocks and 4 bits from iOS 18 on (coremltools,
# optimize/coreml/_quantization_passes.py). They are found in weights of half precision, and so are scales of it.
INTEGERS = {
    "w8": replace(halved(W8), weights=Integers(8, half=True), requires={"min_ios": ("17", "16", "18")}),
    "w4": replace(halved(W4), requires={"min_ios": ("18",)}),
    "p4": replace(halved(P4), requires={"min_ios": ("17", "16", "18")}),
}
RECIPES = FLOATS | INTEGERS
# Operations that round activations are there from iOS 17 on (coremltools, converters/mil/mil/ops/defs/iOS17).
STATIC = {name: replace(halved(recipe), requires={"min_ios": ("17", "18")}) for name, recipe in recipes.STATIC.items()}
STATIC |= {name: replace(halved(recipe), requires={"min_ios": ("18",)}) for name, recipe in recipes.NARROW.items()}
NO_WORDS = "Core ML's operation quantize makes 8-bit integers and no others, so 16-bit activations have no form there"
# How far a number may be from a whole multiple of its scale, in scales, to stand for it: half precision rounds both.
_ON_GRID = 0.25
_ROUNDINGS = ("quantize", "dequantize")
# What coremltools lays beside the model for ExecuTorch's debugger, up to a tenth of a small package.
_DEBUG_HANDLES = "executorch_debug_handle_mapping.json"


def compressed(model: Any, integers: Integers) -> Any:
    """The package with weights as integers where they are whole multiples of their scales, or of a palette, already.

    coremltools finds those integers anew, for each output channel, block of input channels or tensor.
    """
    import coremltools.optimize.coreml as cto

    from lvexport.converters.compression import SMALLEST, block_of

    def config(weight: Any, form: Integers) -> Any:
        kind = {"mode": "linear_symmetric", "dtype": f"int{form.bits}", "weight_threshold": SMALLEST}
        if form.block is None:
            return cto.OpLinearQuantizerConfig(granularity="per_channel", **kind)
        sizes = [1, block_of(weight.shape[1], form), *(0 for _ in weight.shape[2:])]  # 0: the whole axis
        return cto.OpLinearQuantizerConfig(granularity="per_block", block_size=sizes, **kind)

    configs, palettes = {}, {}
    for name, of in cto.get_weights_metadata(model, weight_threshold=SMALLEST).items():
        form = next((form for form in integers.forms if on_grid(of.val, form)), None)
        if form is None or not is_weight(name, of):
            continue
        if form.palette:
            lookup = partial(looked_up, integers=form)
            palettes[name] = cto.OpPalettizerConfig(mode="custom", lut_function=lookup, weight_threshold=SMALLEST)
        else:
            configs[name] = config(of.val, form)
    scaled = cto.linear_quantize_weights(model, cto.OptimizationConfig(op_name_configs=configs))
    return cto.palettize_weights(scaled, cto.OptimizationConfig(op_name_configs=palettes)) if palettes else scaled


def looked_up(weight: Any, integers: Integers) -> tuple[Any, Any]:
    """The palette (2 ** bits,) that a weight was rounded to, and the places (count,) of its numbers there.

    Not by coremltools' own mode for such weights. That counts different numbers with ``numpy.unique``, which sorts, and
    NumPy 2.4.6 sorts numbers of half precision wrong on some processors with AVX-512 where many are equal: places then
    had 6 bits.
    """
    import torch

    from lvexport.converters.palettes import recovered_palette

    found = recovered_palette(torch.from_numpy(weight).float(), integers)
    assert found is not None
    return found.palette.numpy().astype(weight.dtype), found.data.numpy().reshape(-1)


def weights_of(recipe: Recipe) -> Integers | None:
    """What the weights that a program has as numbers are integers of; None where it says itself what is integers.

    With integer activations it does, but for those of 4 bits, for which coremltools reads no operation.
    """
    return recipe.weights if recipe.activations is None else recipe.narrow


def is_weight(name: str, constant: Any) -> bool:
    """Whether a constant is the weight of convolutions or linear layers, and nothing else."""
    return all(
        user.op_type in ("conv", "linear") and user.params_name_mapping.get("weight") == name
        for user in constant.child_ops
    )


def on_grid(weight: Any, integers: Integers) -> bool:
    """Whether all numbers of a weight are near whole multiples of their scale, or of a palette."""
    import torch

    from lvexport.converters.compression import blocks, requantize
    from lvexport.converters.palettes import recovered_palette

    value = torch.from_numpy(weight).float()
    if integers.palette:
        return recovered_palette(value, integers) is not None
    off = blocks((value - requantize(value, integers).restored()).abs(), integers).amax(-1)
    scale = blocks(value.abs(), integers).amax(-1) / integers.largest
    return bool((off <= _ON_GRID * scale).all())


def finish(package: Path, spec: Any) -> None:
    """Rewrite the package without what is in it twice or for debuggers, and so that the same program always gives the
    same bytes.

    coremltools writes protobuf maps in any order, notes the day, and draws the manifest's identifiers at random; here
    the identifiers follow from the content.
    """
    (package / _DEBUG_HANDLES).unlink(missing_ok=True)
    for function in spec.mlProgram.functions.values():
        for block in function.block_specializations.values():
            share_constants(block)
            shorten_names(block)
    spec.description.metadata.userDefined.pop("com.github.apple.coremltools.conversion_date", None)
    manifest_path = package / "Manifest.json"
    manifest = json.loads(manifest_path.read_text())
    root = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
    content = spec.SerializeToString(deterministic=True)
    (package / "Data" / root).write_bytes(content)
    names = {
        old: str(uuid.uuid5(uuid.NAMESPACE_OID, entry["path"] + content[:4096].hex())).upper()
        for old, entry in manifest["itemInfoEntries"].items()
    }
    manifest["itemInfoEntries"] = {names[old]: entry for old, entry in sorted(manifest["itemInfoEntries"].items())}
    manifest["itemInfoEntries"] = dict(sorted(manifest["itemInfoEntries"].items()))
    manifest["rootModelIdentifier"] = names[manifest["rootModelIdentifier"]]
    manifest_path.write_text(json.dumps(manifest, indent=4) + "\n")


def share_constants(block: Any) -> None:
    """Let equal small constants of a block be one, which coremltools writes anew for each operation."""
    renamed, first, kept = dict[str, str](), dict[bytes, str](), []
    for operation in block.operations:
        rename_arguments(operation, renamed)
        for inner in operation.blocks:
            share_constants(inner)
        value = small_constant(operation)
        if value is None or operation.outputs[0].name in block.outputs:
            kept.append(operation)
            continue
        name = operation.outputs[0].name
        renamed[name] = first.setdefault(value, name)
        if renamed[name] == name:
            kept.append(operation)
    del block.operations[:]
    block.operations.extend(kept)


def rename_arguments(operation: Any, renamed: Mapping[str, str]) -> None:
    """Let an operation, and the blocks within it, take tensors by their new names."""
    for given in operation.inputs.values():
        for argument in given.arguments:
            if argument.WhichOneof("binding") == "name":
                argument.name = renamed.get(argument.name, argument.name)
    for inner in operation.blocks:
        for one in inner.operations:
            rename_arguments(one, renamed)
        inner.outputs[:] = [renamed.get(name, name) for name in inner.outputs]


def small_constant(operation: Any) -> bytes | None:
    """Type and value of a constant that stands in the program itself; None for all else."""
    if operation.type != "const" or operation.attributes["val"].WhichOneof("value") != "immediateValue":
        return None
    value: bytes = operation.attributes["val"].SerializeToString(deterministic=True)
    return value


def shorten_names(block: Any) -> None:
    """Number the small constants and the roundings of a block, whose names say no more and are a fifth of a program."""
    taken = {output.name for operation in block.operations for output in operation.outputs} | {*block.outputs}
    free = (name for i in itertools.count() if (name := f"v{i}") not in taken)
    renamed: dict[str, str] = {}
    for operation in block.operations:
        rename_arguments(operation, renamed)
        if small_constant(operation) is None and operation.type not in _ROUNDINGS:
            continue
        (output,) = operation.outputs
        if output.name not in block.outputs:
            renamed[output.name] = output.name = next(free)
            operation.attributes["name"].immediateValue.tensor.strings.values[:] = [output.name]
