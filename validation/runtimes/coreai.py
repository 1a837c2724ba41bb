"""Core AI's own runtime, which comes with coreai-core. It compiles the saved program anew wherever it loads it."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from lvexport.converters.contract import TensorSpec
from lvexport.validation.contract import Array, ArtifactError, Availability, Description

_PROGRAM, _HASH = "main.mlirb", "main.hash"  # coreai.authoring.AIProgram.save_asset writes both
_ENTRY = "main"
_UNTIMED = "Core AI's runtime for Linux computes on one processor core, whose time says nothing of a device"


class CoreAISession:
    """The runtime answers coroutines; each run waits for its own."""

    def __init__(self, function: Any, loop: asyncio.Runner) -> None:
        self._function = function
        self._loop = loop
        meta = function.desc
        self.inputs = tuple(spec(name, meta.input_descriptor(name)) for name in meta.input_names)
        self.outputs = tuple(spec(name, meta.output_descriptor(name)) for name in meta.output_names)

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        return self._loop.run(self._answer(inputs))

    async def _answer(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        from coreai.runtime import NDArray

        given = {s.name: NDArray(np.ascontiguousarray(inputs[s.name])) for s in self.inputs}
        results = await self._function(inputs=given)
        return {s.name: results[s.name].numpy().copy() for s in self.outputs}


class CoreAIRuntime:
    def available(self) -> Availability:
        try:
            name = f"Core AI runtime {version('coreai-core')}"
        except PackageNotFoundError:
            reason = (
                "coreai-core is not installed: pip install 'lvexport[coreai]'. It is made for Linux on x86-64 with "
                "glibc 2.34 or newer, and for macOS 26 or newer on Apple silicon."
            )
            return Availability(False, "Core AI runtime", reason)
        if sys.platform == "darwin":
            import platform

            return Availability(True, f"{name} on macOS {platform.mac_ver()[0]}")
        return Availability(True, name, untimed=_UNTIMED)

    def load(self, artifact: Path, threads: int) -> CoreAISession:
        """``threads`` is not heeded: the runtime takes no such number, and computes on one."""
        return start(open_asset(artifact), artifact)

    def describe(self, artifact: Path) -> Description:
        asset = open_asset(artifact)
        session, summary = start(asset, artifact), asset.summary()
        remarks = (f"numbers in the file: {', '.join(f'{n:,} {kind}' for kind, n in summary.storage_types)}",)
        return Description(session.inputs, session.outputs, dict(summary.operation_distribution), remarks)


def open_asset(artifact: Path) -> Any:
    """The asset, once its program is known to be whole: the runtime's reader ends the process over one that is not."""
    from coreai.authoring import AIModelAsset

    check_program(artifact)
    try:
        return AIModelAsset.load(artifact)
    except RuntimeError as error:
        raise ArtifactError(f"Core AI cannot open {artifact}: {error}") from error


def check_program(artifact: Path) -> None:
    """Raise ArtifactError unless the program is there and has the SHA-256 that was stored beside it."""
    program, stored = artifact / _PROGRAM, artifact / _HASH
    missing = [path.name for path in (program, stored) if not path.is_file()]
    if missing:
        raise ArtifactError(
            f"{artifact} is not a Core AI model asset: it has no {' and no '.join(missing)}. An asset is the folder "
            "that lvexport MODEL --to coreai leaves."
        )
    with program.open("rb") as file:
        if hashlib.file_digest(file, "sha256").digest() != stored.read_bytes():
            raise ArtifactError(
                f"Core AI cannot load {artifact}: its program is damaged, for {_PROGRAM} has another SHA-256 than the "
                f"one in {_HASH}. Make it again with lvexport MODEL --to coreai"
            )


def start(asset: Any, artifact: Path) -> CoreAISession:
    loop = asyncio.Runner()
    return CoreAISession(loop.run(entry(asset, artifact)), loop)


async def entry(asset: Any, artifact: Path) -> Any:
    """The asset's main function, compiled. It keeps what it needs when the files it was compiled to are gone."""
    try:
        async with asset.executable() as model:
            if _ENTRY not in model.function_names:
                raise ArtifactError(f"{artifact} has no function named {_ENTRY}.")
            return model.load_function(_ENTRY)
    except (RuntimeError, ValueError) as error:
        raise ArtifactError(f"Core AI cannot load {artifact}: {error}") from error


def spec(name: str, descriptor: Any) -> TensorSpec:
    return TensorSpec(name, tuple(descriptor.shape), descriptor.dtype)


RUNTIME = CoreAIRuntime()
