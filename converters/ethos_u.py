"""Arm Ethos-U: the model for microcontrollers, compiled by Vela for an accelerator beside a Cortex-M."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lvexport.converters.contract import Captured, Choice, ConversionError, Notes, Request
from lvexport.converters.recipes import GATED, NO_FLOATS, NO_NARROW, WIDE
from lvexport.converters.vela import KIB, OPTIONS, Summary, check_limits, compile_file

_COMMANDS = "ethos-u"  # the custom operator that stands for what the accelerator does
# Vela makes padding part of the convolution behind it before it looks whether the accelerator can do that one.
_TOGETHER = "PAD"


class EthosU:
    """Operators that the accelerator cannot do, all in floating point among them, stay with the processor."""

    name = "ethos-u"
    summary = "Arm Ethos-U, by the Vela compiler: with estimates, and not run here"
    backend = "ethos-u"
    suffix = ".tflite"
    distributions = ("litert-torch", "ai-edge-litert", "ethos-u-vela")
    modules = ("litert_torch",)
    seconds = 19
    recipes = GATED | WIDE
    refusals: Mapping[str, str] = MappingProxyType(NO_FLOATS | NO_NARROW)
    options: Mapping[str, Choice] = OPTIONS

    def convert(self, captured: Captured, request: Request, out: Path) -> Notes:
        from lvexport.converters.micro import write_model

        with tempfile.TemporaryDirectory(prefix="lvexport-") as scratch:
            model = Path(scratch) / "model.tflite"
            write_model(captured.program(), model)
            made = compiled(model, request.options["accelerator"])
            shutil.copyfile(made.path, out)
            remarks = report(model, made)
        check_limits(made.summary.sram, out.stat().st_size, request.options)
        return Notes("torch.export", remarks)


@dataclass(frozen=True)
class Compiled:
    """What Vela made. ``kept``: the operator that was kept from the accelerator, since Vela failed with it."""

    path: Path
    summary: Summary
    kept: str | None


def compiled(model: Path, accelerator: str) -> Compiled:
    """Have Vela compile a model, beside it; where it cannot as it is, with padding left to the processor."""
    try:
        return run(model, accelerator, None)
    except RuntimeError:
        try:
            return run(model, accelerator, _TOGETHER)
        except RuntimeError as error:
            raise ConversionError(f"Vela cannot compile this network for {accelerator}: {error}") from error


def run(model: Path, accelerator: str, kept: str | None) -> Compiled:
    """One call of Vela with its default system and memory for the accelerator."""
    arguments = ("--accelerator-config", accelerator, *(() if kept is None else ("--ignore-ops", kept)))
    summary = compile_file(model, arguments)
    return Compiled(model.parent / "vela" / f"{model.stem}_vela.tflite", summary, kept)


def report(model: Path, made: Compiled) -> tuple[str, ...]:
    """What there is to say of a compiled model, estimates called so."""
    before, after, found = Counts.of(model), Counts.of(made.path), made.summary
    left = after.operators
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    remarks = (
        f"Vela's estimate for {found.system}: {found.cycles:,} cycles, {found.seconds * 1000:.3g} ms an inference, "
        "of the accelerator's part alone",
        f"SRAM {found.sram / KIB:,.0f} KiB and DRAM {found.dram / KIB:,.0f} KiB by Vela's allocation, flash "
        f"{made.path.stat().st_size / KIB:,.0f} KiB",
        f"{before.operators - left} of {before.operators} operators and {1 - after.macs / max(1, before.macs):.1%} of "
        f"MACs on the accelerator; with the processor stay {', '.join(f'{n} {c}' for n, c in after.names.items())}",
        f"made from the model that --to tflm writes and verifies (SHA-256 {digest})",
    )
    if made.kept is None:
        return remarks
    return (*remarks, f"{made.kept} was kept from the accelerator: Vela fails where it becomes part of a convolution")


@dataclass(frozen=True)
class Counts:
    """Operators of a model that the processor has to do, by name, and their multiply-accumulates."""

    names: Mapping[str, int]
    macs: int

    @property
    def operators(self) -> int:
        return sum(self.names.values())

    @classmethod
    def of(cls, model: Path) -> Counts:
        from ai_edge_litert import schema_py_generated as schema

        read = schema.ModelT.InitFromPackedBuf(model.read_bytes(), 0)
        graph, spelled = read.subgraphs[0], {n: s for s, n in vars(schema.BuiltinOperator).items() if s[0] != "_"}
        names: dict[str, int] = {}
        total = 0
        for operator in graph.operators:
            code = read.operatorCodes[operator.opcodeIndex]
            if code.customCode and code.customCode.decode() == _COMMANDS:
                continue
            name = spelled[code.builtinCode]
            names[name] = names.get(name, 0) + 1
            total += macs(name, [graph.tensors[i].shape for i in operator.inputs], graph.tensors[operator.outputs[0]])
        return cls(dict(sorted(names.items(), key=lambda pair: -pair[1])), total)


def macs(name: str, shapes: list[Any], made: Any) -> int:
    """Multiply-accumulates of an operator: for each number that it makes, as many as there are in its sum."""
    numbers = 1
    for side in made.shape:
        numbers *= int(side)
    if name == "CONV_2D":  # weights (out, height, width, in)
        return numbers * int(shapes[1][1]) * int(shapes[1][2]) * int(shapes[1][3])
    if name == "DEPTHWISE_CONV_2D":  # weights (1, height, width, out)
        return numbers * int(shapes[1][1]) * int(shapes[1][2])
    if name == "FULLY_CONNECTED":  # weights (out, in)
        return numbers * int(shapes[1][-1])
    return numbers * int(shapes[0][-1]) if name == "BATCH_MATMUL" else 0


CONVERTER = EthosU()
