"""ExecuTorch for its Core ML delegate: a ``.pte`` program that holds Core ML packages."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lvexport.converters.contract import Captured, Choice, ConversionError, Integers, Notes, Request
from lvexport.converters.mlpackage import MIN_IOS, NO_WORDS, PRECISIONS, RECIPES, STATIC, compressed, finish, weights_of

# The names that ExecuTorch's backends/apple/coreml/compiler/coreml_preprocess.py gives the parts of a delegate's bytes.
_PACKAGE, _METADATA = "model.mlpackage", "metadata.json"
# Names of operations, which are others here, for runtimes built to trace them; those do without where it is not there
# (backends/apple/coreml/runtime/delegate/ETCoreMLModelManager.mm). It can be a third of a program.
_DEBUG_INFO = "debug_info.json"


class ExecuTorchCoreML:
    """``fp16`` computes in half precision between single-precision inputs and outputs."""

    name = "executorch:coreml"
    summary = "ExecuTorch program for the Core ML delegate, for iOS and macOS"
    backend = "coreml"
    suffix = ".pte"
    distributions = ("executorch", "coremltools")
    modules = ("coremltools", "executorch.backends.apple.coreml.partition", "executorch.exir")
    seconds = 30
    recipes = RECIPES | STATIC
    refusals: Mapping[str, str] = MappingProxyType({"w8a16": NO_WORDS})
    options: Mapping[str, Choice] = MappingProxyType({"min_ios": MIN_IOS})

    def convert(self, captured: Captured, request: Request, out: Path) -> Notes:
        import coremltools as ct
        from executorch.backends.apple.coreml.compiler import CoreMLBackend
        from executorch.backends.apple.coreml.partition import CoreMLPartitioner
        from executorch.exir import to_edge_transform_and_lower

        from lvexport.converters.derived import for_core_ml
        from lvexport.converters.quantization.forms import with_narrow_numbers

        specs = CoreMLBackend.generate_compile_specs(
            minimum_deployment_target=getattr(ct.target, f"iOS{request.options['min_ios']}"),
            compute_precision=getattr(ct.precision, PRECISIONS[request.recipe.significand_bits]),
        )
        partitioner = CoreMLPartitioner(compile_specs=specs)
        program, integers = for_core_ml(captured.program()), weights_of(request.recipe)
        if request.recipe.narrow is not None:
            program = with_narrow_numbers(program)
        edge = to_edge_transform_and_lower(program, partitioner=[partitioner])
        for module in delegates(edge):
            module._processed_bytes = finished(module.processed_bytes, integers)
        out.write_bytes(edge.to_executorch().buffer)
        return Notes("torch.export", (f"Core ML packages in the program: {len(delegates(edge))}",))


def delegates(edge: Any) -> list[Any]:
    """The delegated parts of a lowered program."""
    from executorch.exir.lowered_backend_module import LoweredBackendModule

    return [m for m in edge.exported_program().graph_module.modules() if isinstance(m, LoweredBackendModule)]


def finished(delegate: bytes, integers: Integers | None) -> bytes:
    """The same delegate with integer weights where they are asked for, and with bytes that follow from its content.

    ExecuTorch's own option for them takes one size of block for all weights, and rounds what is no weight of a layer.
    It draws the identifier, under which a device keeps compiled packages, at random.
    """
    from executorch.backends.apple.coreml import executorchcoreml

    with tempfile.TemporaryDirectory(prefix="lvexport-") as scratch:
        if not executorchcoreml.unflatten_directory_contents(delegate, scratch):
            raise ConversionError("ExecuTorch cannot read the Core ML package back that it put into the program.")
        (folder,) = Path(scratch).iterdir()
        rewrite(folder / _PACKAGE, integers)
        (folder / _DEBUG_INFO).unlink(missing_ok=True)
        path = folder / _METADATA
        metadata = json.loads(path.read_text()) | {"identifier": ""}
        path.write_text(json.dumps(metadata))
        content = hashlib.sha256(pack(folder)).hexdigest()
        metadata["identifier"] = f"executorch_{uuid.uuid5(uuid.NAMESPACE_OID, content)}"
        path.write_text(json.dumps(metadata))
        return pack(folder)


def rewrite(package: Path, integers: Integers | None) -> None:
    """Compress the package in its place, and make its bytes follow from its content."""
    import coremltools as ct

    if integers is None:
        finish(package, ct.utils.load_spec(str(package)))
        return
    model = compressed(ct.models.MLModel(str(package), skip_model_load=True), integers)
    shutil.rmtree(package)
    model.save(str(package))
    finish(package, model.get_spec())


def pack(folder: Path) -> bytes:
    """A folder as ExecuTorch's Core ML delegate keeps it.

    The contents of all files, one behind the other, then a table of files (kind 0) and folders (kind 1) as JSON that is
    written backwards, the folder itself last in it (backends/apple/coreml/runtime/inmemoryfs/inmemory_filesystem.cpp).
    """
    contents, nodes = bytearray(), []

    def add(path: Path) -> int:
        children = {p.name: add(p) for p in sorted(path.iterdir())} if path.is_dir() else {}
        data = b"" if path.is_dir() else path.read_bytes()
        region = {"offset": len(contents) if data else 0, "size": len(data)}
        contents.extend(data)
        nodes.append({"children": children, "dataRegion": region, "kind": int(path.is_dir()), "name": path.name})
        return len(nodes) - 1

    add(folder)
    table = json.dumps({"nodes": nodes}, separators=(",", ":"))
    return bytes(contents) + table.encode()[::-1]


CONVERTER = ExecuTorchCoreML()
