"""From a source to a module, and from a module to a program that converters take. Importing this loads torch."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from lvexport import hf, timm
from lvexport.converters.contract import TensorSpec
from lvexport.cost import measure
from lvexport.depth import depth
from lvexport.errors import UsageError
from lvexport.feeding import SEQUENCE, save_outputs, tensors
from lvexport.jobs import Capture, Counted, Inputs, RunResult
from lvexport.models import weights as checkpoints
from lvexport.models.build import assemble
from lvexport.models.provenance import Provenance
from lvexport.outputs import Plain, is_plain, names_of, tensors_of
from lvexport.overrides import check_labels
from lvexport.plain import plain
from lvexport.source import Source
from lvexport.validation.contract import Array
from lvexport.validation.sample import synthetic

SEED = 0
PIXELS = 16 * 64**2  # of the pictures that a network of the registry is given at once; more are no faster

Item = TypeVar("Item")


@dataclass(frozen=True)
class Built:
    """The original in evaluation mode, and its source with what only building it could tell."""

    model: nn.Module
    source: Source


def realise(source: Source) -> Built:
    """Build the original model."""
    if source.kind == "registry":
        return of_registry(source)
    if source.kind == "program":
        return of_program(source)
    if source.kind in ("hf", "timm"):
        return of_library(source)
    return of_own_code(source)


def of_registry(source: Source) -> Built:
    model = assemble(source.provenance())
    provenance = model.provenance
    assert isinstance(provenance, Provenance)
    return Built(model, replace(source, preprocessing=provenance.preprocessing, layout=provenance.layout))


def of_library(source: Source) -> Built:
    builder = hf.build if source.kind == "hf" else timm.build
    model, source = builder(source)
    return Built(model.eval().requires_grad_(False), source)


def of_program(source: Source) -> Built:
    program = _load_program(Path(source.spec))
    first = example_inputs(program)[0]
    return Built(program.module(), replace(source, imgsz=first.shape[-1] if first.ndim else 1))


def of_own_code(source: Source) -> Built:
    location, _, factory = source.spec.rpartition(":")
    module = _script(Path(location)) if source.kind == "script" else _module(location)
    # A factory that draws its weights has to draw the same ones in every cell.
    torch.manual_seed(SEED)
    built = _attribute(module, factory, source.spec)
    if callable(built) and not isinstance(built, nn.Module):
        built = built()
    if not isinstance(built, nn.Module):
        raise UsageError(f"{source.spec} gave a {type(built).__name__}, not a torch.nn.Module.")
    if source.weights.path is not None:
        source = replace(source, layout=checkpoints.load(built, source.weights.path, {}))
    return Built(built.eval().requires_grad_(False), source)


def _load_program(path: Path) -> torch.export.ExportedProgram:
    import torch.ao.quantization.fx._decomposed  # which defines the operations that round

    try:
        return torch.export.load(path)
    except Exception as error:  # torch raises of every kind for a damaged archive
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"{path} is not a program that torch.export.save wrote ({reason}).") from error


def _module(name: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))
    return importlib.import_module(name)


def _script(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    sys.path.insert(0, str(path.parent))
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _attribute(module: ModuleType, dotted: str, spec: str) -> object:
    found: object = module
    for name in dotted.split("."):
        if not hasattr(found, name):
            raise UsageError(
                f"{spec} cannot be built: {module.__name__} has no {dotted!r}. Name a function without arguments that "
                "returns the model, as script.py:FUNCTION."
            )
        found = getattr(found, name)
    return found


def example_inputs(program: torch.export.ExportedProgram) -> tuple[Tensor, ...]:
    """The inputs that a program was captured with."""
    args, _ = program.example_inputs or ((), {})
    return tuple(args)


def examples(source: Source) -> tuple[Tensor, ...]:
    """Inputs of the shape that the model is captured at."""
    if source.kind == "program":
        return example_inputs(_load_program(Path(source.spec)))
    if source.takes:
        arrays = synthetic(source.takes, 1, SEED)
        return tuple(torch.from_numpy(arrays[taken.name]) for taken in source.takes)
    generator = torch.Generator().manual_seed(SEED)
    return (torch.rand(1, 3, source.imgsz, source.imgsz, generator=generator),)


def count(built: Built) -> Counted:
    """What one inference of the model costs."""
    return Counted(built.source, measure(built.model, examples(built.source)))


def capture(built: Built, out: Path) -> Capture:
    """Export the model with ``torch.export`` and save the program at ``out``."""
    model, inputs = built.model, examples(built.source)
    digest = state_digest(model)  # before anything runs: a model may write into its buffers
    with torch.no_grad():
        given = given_by(model, inputs)
        results = tuple(tensor for _, tensor in tensors_of(given))
        if not results:
            raise UsageError(
                f"{built.source.name} gives no tensor but a {type(given).__name__}. Let its forward return a tensor, "
                "or a tuple or a dictionary of them."
            )
        module = model if is_plain(given) else Plain(model)
        program = plain(torch.export.export(module, inputs), inputs)
        torch.export.save(program, out)
    if results[0].ndim:
        check_labels(built.source.labels, results[0].shape[-1], built.source.name)
    single = len(inputs) == 1 and inputs[0].ndim == 4
    signature = program.graph_signature
    names = ("image",) if single else tuple(map(str, signature.user_inputs))
    outputs = ["logits"] if single and len(results) == 1 and is_plain(given) else names_of(given, names)
    return Capture(
        tuple(map(spec, names, inputs)),
        tuple(map(spec, outputs, results)),
        measure(model, inputs),
        depth(program),
        digest,
        program_digest(program),
        built.source,
    )


def spec(name: str, tensor: Tensor) -> TensorSpec:
    return TensorSpec(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def state_digest(model: nn.Module) -> str:
    """SHA-256 over all parameters and buffers, names and numbers."""
    return tensors_digest(model.state_dict())


def program_digest(program: torch.export.ExportedProgram) -> str:
    """SHA-256 over what a program computes and all numbers that it computes with."""
    constants = {name: value for name, value in program.constants.items() if isinstance(value, Tensor)}
    numbers = tensors_digest({**program.state_dict, **constants})
    return hashlib.sha256(f"{numbers} {program.graph_module.code}".encode()).hexdigest()


def tensors_digest(named: Mapping[str, Tensor]) -> str:
    """SHA-256 over names and numbers."""
    total = hashlib.sha256()
    for name, value in named.items():
        total.update(name.encode())
        total.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def fresh_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Copies of its buffers, for ``answers`` to write into."""
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def given_by(model: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    """What the model gives, its own buffers staying as they are."""
    return torch.func.functional_call(model, fresh_buffers(model), inputs)


class Sequence(nn.Module):
    """Runs a model over one input after the other; what it gives may be a buffer that the next one is written into."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Iterable[tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]]:
        return [tuple(r.clone() for _, r in tensors_of(self.model(*tensors))) for tensors in inputs]


def sequence(
    model: nn.Module, buffers: Mapping[str, Tensor], inputs: Iterable[tuple[Tensor, ...]]
) -> list[tuple[Tensor, ...]]:
    """The model's outputs for each input, with ``buffers`` put in the place of its own once for all of them."""
    named = {f"model.{name}": buffer for name, buffer in buffers.items()}
    results: list[tuple[Tensor, ...]] = torch.func.functional_call(Sequence(model), named, (list(inputs),))
    return results


def together(source: Source) -> int:
    """How many inputs the original may be given in one batch: a network of the registry answers each by itself."""
    return max(1, PIXELS // source.imgsz**2) if source.kind == "registry" else 1


@torch.inference_mode()
def evaluate(model: nn.Module, inputs: Inputs, out: Path, batch: int = 1) -> RunResult:
    """Run the original and write its outputs at ``out``; one input at a time, as artifacts are run, or more."""
    outputs, batches = [], (joined(some) for some in grouped(tensors(inputs), batch))
    for some in grouped(batches, SEQUENCE):
        outputs += [[r.numpy() for r in results] for results in sequence(model, fresh_buffers(model), some)]
    save_outputs(outputs, out)
    return RunResult(f"PyTorch {torch.__version__}", (), 0.0)


def grouped(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    """So many at a time, and what is left."""
    return iter(lambda: list(islice(items, size)), [])


def joined(some: list[list[Array]]) -> tuple[Tensor, ...]:
    """Inputs as one batch."""
    return tuple(torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*some, strict=True))
