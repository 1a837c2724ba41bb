"""ExecuTorch for Arm Ethos-U: a ``.pte`` program that holds what Vela compiled, and the rest for a Cortex-M."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from lvexport.converters import apart
from lvexport.converters.contract import Captured, Choice, ConversionError, Delegation, Notes, Request
from lvexport.converters.recipes import NO_FLOATS, NO_NARROW, STATIC, WIDE
from lvexport.converters.vela import KIB, OPTIONS, Summary, check_limits, compile_file

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import GraphModule, Node

_SERIALIZER = "tosa-tools"  # the backend hands Vela networks in Arm's exchange format, which this writes
_NO_WIDE = "lvexport hands this delegate integers of 8 bits alone so far"
_BETWEEN = "what lies before or behind it is not in integers"
_CONVERSIONS = ("quantize_per_tensor", "dequantize_per_tensor", "dequantize_per_channel")
_MOVES = ("view", "permute", "expand", "clone", "slice", "squeeze", "unsqueeze", "reshape", "getitem", "call_delegate")
_COMPUTE_NOTHING = (*_CONVERSIONS, *_MOVES)


class ExecuTorchEthosU:
    """What is not between roundings stays with the processor, in floating point, and so do some layers.

    The accelerator computes activation functions between roundings too, as tables.
    """

    name = "executorch:ethos-u"
    summary = "ExecuTorch program for the Arm Ethos-U delegate: with Vela's estimates, and not run here"
    backend = "ethos-u"
    suffix = ".pte"
    distributions = ("executorch", "ethos-u-vela", _SERIALIZER)
    modules = ("executorch.exir",)
    seconds = 50
    recipes = STATIC
    refusals: Mapping[str, str] = MappingProxyType(NO_FLOATS | NO_NARROW | dict.fromkeys(WIDE, _NO_WIDE))
    options: Mapping[str, Choice] = OPTIONS

    def convert(self, captured: Captured, request: Request, out: Path) -> Notes:
        import executorch.kernels.quantized  # noqa: F401  registers what the processor rounds with

        from lvexport.converters.arm import for_arm

        apart.reach(_SERIALIZER)
        with tempfile.TemporaryDirectory(prefix="lvexport-") as scratch:
            made = lowered(for_arm(captured.program()), request.options["accelerator"], Path(scratch))
            program = made.edge.to_executorch()
        out.write_bytes(program.buffer)
        check_limits(max(part.sram for part in made.parts), out.stat().st_size, request.options)
        return Notes("torch.export", report(made, out.stat().st_size), made.delegation)


@dataclass(frozen=True)
class Lowered:
    """``within``, ``outside``: how many operators that compute are the accelerator's and the processor's, and MACs."""

    edge: Any
    delegation: Delegation
    parts: tuple[Summary, ...]
    within: tuple[int, int]
    outside: tuple[int, int]


def lowered(program: ExportedProgram, accelerator: str, scratch: Path) -> Lowered:
    """The program with its integer parts compiled. Raises ConversionError where there is none."""
    from executorch.backends.arm.ethosu import EthosUCompileSpec
    from executorch.exir import to_edge_transform_and_lower

    from lvexport.converters.delegation import Reasons, report

    spec = EthosUCompileSpec(accelerator).dump_intermediate_artifacts_to(str(scratch / "parts"))
    partitioner, heard = partitioner_for(spec)
    try:
        edge = to_edge_transform_and_lower(program, partitioner=[partitioner])
    except RuntimeError as error:
        raise ConversionError(f"ExecuTorch's Ethos-U backend cannot compile this network: {error}") from error
    reasons = Reasons()
    graph = edge.exported_program().graph_module
    reasons.found = conversions(graph) | heard()
    parts = tuple(summaries((scratch / "parts").glob("output_*.tosa"), spec.compiler_flags, scratch))
    if not parts:
        raise ConversionError(f"ExecuTorch's Ethos-U backend takes nothing of this network for {accelerator}.")
    return Lowered(edge, report(edge, reasons), parts, work(delegated(graph)), work([graph]))


def partitioner_for(spec: Any) -> tuple[Any, Any]:
    """A partitioner, and what tells of each node's name why the partitioner did not take it.

    It reports that as a table in its log alone; the checks are given the reporter through this method.
    """
    from executorch.backends.arm.ethosu import EthosUPartitioner

    partitioner, reporters = EthosUPartitioner(spec), []
    create = partitioner._create_operator_support

    def listening(program: Any, reporter: Any) -> Any:
        reporters.append(reporter)
        return create(program, reporter)

    partitioner._create_operator_support = listening
    return partitioner, lambda: {n.name: str(why) for r in reporters for n, why in r._rejected_nodes.items()}


def conversions(module: GraphModule) -> dict[str, str]:
    """Of conversions between integers and floating-point numbers, and of moves, why they stay."""
    return {n.name: _BETWEEN for n in module.graph.nodes if any(word in str(n.target) for word in _COMPUTE_NOTHING)}


def summaries(networks: Iterable[Path], flags: list[str], scratch: Path) -> Iterator[Summary]:
    """Vela's figures for each part, which ExecuTorch does not keep: they are compiled once more, as it did."""
    for number, network in enumerate(sorted(networks)):
        place = scratch / f"again-{number}"
        place.mkdir()
        shutil.copyfile(network, place / "part.tosa")
        yield compile_file(place / "part.tosa", flags)


def report(made: Lowered, size: int) -> tuple[str, ...]:
    """What there is to say of a program, estimates called so."""
    (within, done), (outside, left) = made.within, made.outside
    cycles, seconds = sum(p.cycles for p in made.parts), sum(p.seconds for p in made.parts)
    return (
        f"Vela's estimate for {made.parts[0].system}: {cycles:,} cycles, {seconds * 1000:.3g} ms an inference, of the "
        f"accelerator's {len(made.parts)} parts alone",
        f"SRAM {max(p.sram for p in made.parts) / KIB:,.0f} KiB by Vela's allocation for the largest part, and flash "
        f"{size / KIB:,.0f} KiB",
        f"{within} of {within + outside} operators that compute, and {done / max(1, done + left):.1%} of MACs, on the "
        "accelerator",
        "the program with its roundings is the one that --to onnx verifies",
    )


def delegated(module: GraphModule) -> Iterator[GraphModule]:
    from executorch.exir.lowered_backend_module import LoweredBackendModule

    for part in module.modules():
        if isinstance(part, LoweredBackendModule):
            yield part.original_module.graph_module


def work(modules: Iterable[GraphModule]) -> tuple[int, int]:
    """How many operators compute, and their multiply-accumulates."""
    nodes = [node for module in modules for node in computing(module)]
    return len(nodes), macs(nodes)


def computing(module: GraphModule) -> Iterator[Node]:
    """Calls that neither convert numbers nor move them."""
    for node in module.graph.nodes:
        if node.op == "call_function" and not any(word in str(node.target) for word in _COMPUTE_NOTHING):
            yield node


def macs(nodes: Iterable[Node]) -> int:
    """Multiply-accumulates: for each number that a convolution or product makes, as many as there are in its sum."""
    return sum(prod(node.meta["val"].shape) * summed(node) for node in nodes if summed(node))


def summed(node: Node) -> int:
    """How many products there are in each sum that a node makes; 0 where it is neither a product nor a convolution."""
    name = str(node.target)
    if "convolution" in name:  # weights (out, in / groups, height, width)
        return prod(node.all_input_nodes[1].meta["val"].shape[1:])
    if "addmm" in name:  # what is added, and then the factors
        return int(node.all_input_nodes[1].meta["val"].shape[-1])
    if any(word in name for word in ("aten.linear", "aten.mm", "aten.bmm")):
        return int(node.all_input_nodes[0].meta["val"].shape[-1])
    return 0


CONVERTER = ExecuTorchEthosU()
