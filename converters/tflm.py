"""TensorFlow Lite Micro: a ``.tflite`` that its interpreter was seen to run, in the smallest arena that does."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from lvexport.converters.contract import Captured, Choice, ConversionError, Notes, Request
from lvexport.converters.recipes import GATED, NO_FLOATS, WIDE

LARGEST_ARENA = 2**30  # bytes
ARENA_STEP = 16  # bytes: TFLM aligns its buffers so (tensorflow/lite/micro/micro_arena_constants.h)
_NO_KERNEL = re.compile(r"Didn't find op for builtin opcode '(\w+)'")
# tensorflow/lite/micro/kernels/fully_connected_common.cc refuses all others.
_NO_NARROW = "TensorFlow Lite Micro's linear layers take 4-bit weights with one scale for all of a weight only"


class TFLM:
    name = "tflm"
    summary = "TensorFlow Lite Micro, for microcontrollers"
    backend = "tflm"
    suffix = ".tflite"
    distributions = ("litert-torch", "ai-edge-litert", "tflite-micro")
    modules = ("litert_torch",)
    seconds = 17
    recipes = GATED | WIDE
    refusals: Mapping[str, str] = MappingProxyType(NO_FLOATS | {"w4a8": _NO_NARROW})
    options: Mapping[str, Choice] = MappingProxyType({})

    def convert(self, captured: Captured, request: Request, out: Path) -> Notes:
        from lvexport.converters.c_array import write_c
        from lvexport.converters.micro import write_model

        write_model(captured.program(), out)
        arena = smallest_arena(out.read_bytes())
        remark = f"arena: {arena:,} bytes where pointers have 64 bits, less where they have 32"
        return Notes("torch.export", (remark,), beside=write_c(out, arena, out.name.removesuffix(self.suffix)))


def smallest_arena(model: bytes) -> int:
    """The bytes in which the model's tensors fit. Raises ConversionError where TFLM cannot run it in any."""
    with said() as log:
        if not runs(model, LARGEST_ARENA):
            raise ConversionError(why(log.read_text()))
    least, fits = 0, LARGEST_ARENA
    with said():  # of each arena that is too small
        while fits - least > ARENA_STEP:
            middle = (least + fits) // 2 // ARENA_STEP * ARENA_STEP
            least, fits = (least, middle) if loads(model, middle) else (middle, fits)
    return fits


def runs(model: bytes, arena: int) -> bool:
    """Whether TFLM has kernels for all of the model: some find out only when they are called."""
    import numpy as np
    from tflite_micro import runtime

    try:
        interpreter = runtime.Interpreter.from_bytes(model, arena_size=arena)
        for index in range(inputs(model)):
            detail = interpreter.get_input_details(index)
            interpreter.set_input(np.zeros(detail["shape"], detail["dtype"]), index)
        interpreter.invoke()
    except RuntimeError:
        return False
    return True


def loads(model: bytes, arena: int) -> bool:
    """Whether the model's tensors fit into an arena."""
    from tflite_micro import runtime

    try:
        runtime.Interpreter.from_bytes(model, arena_size=arena)
    except RuntimeError:
        return False
    return True


def inputs(model: bytes) -> int:
    from ai_edge_litert import schema_py_generated as schema

    return int(schema.Model.GetRootAs(model).Subgraphs(0).InputsLength())


@contextmanager
def said() -> Iterator[Path]:
    """A file that has what C++ writes to standard error meanwhile; it does not outlive the block."""
    kept = os.dup(2)
    with tempfile.NamedTemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield Path(file.name)
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def why(log: str) -> str:
    """For the user, what TFLM's messages mean."""
    missing = _NO_KERNEL.search(log)
    if missing is not None:
        return f"TensorFlow Lite Micro has no kernel for {missing[1]}, which this network needs."
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return f"TensorFlow Lite Micro cannot run this network: {'; '.join(lines[-3:]) or 'it does not say why'}."


CONVERTER = TFLM()
