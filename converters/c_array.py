"""A model for TensorFlow Lite Micro as C source: its bytes as an array, and a header with what calling it needs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ALIGNMENT = 16  # bytes, which TFLM's kernels may rely on for constants (tensorflow/lite/micro/micro_arena_constants.h)
_A_LINE = 16  # bytes
# Operators whose registering method is not their name in camel case (tensorflow/lite/micro/micro_mutable_op_resolver.h)
_METHODS = {
    "BATCH_MATMUL": "BatchMatMul",
    "CUMSUM": "CumSum",
    "PADV2": "PadV2",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "UnidirectionalSequenceLSTM",
}


def write_c(model: Path, arena: int, stem: str) -> tuple[str, str]:
    """Write ``<stem>.c`` and ``<stem>.h`` beside a model; ``arena``: the bytes that it needs. Their names."""
    data, source, header = model.read_bytes(), model.with_name(f"{stem}.c"), model.with_name(f"{stem}.h")
    name = re.sub(r"\W|^(?=\d)", "_", stem, flags=re.ASCII)  # as CMake makes identifiers
    header.write_text(_header(name, data, arena))
    source.write_text(_source(name, header.name, data))
    return source.name, header.name


def _source(name: str, header: str, data: bytes) -> str:
    rows = (data[i : i + _A_LINE] for i in range(0, len(data), _A_LINE))
    body = "".join("  " + "".join(f"0x{byte:02x}," for byte in row) + "\n" for row in rows)
    return f'#include "{header}"\n\n_Alignas({ALIGNMENT}) const unsigned char {name}[] = {{\n{body}}};\n'


def _header(name: str, data: bytes, arena: int) -> str:
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(data, 0)
    graph, codes = model.subgraphs[0], sorted({c.builtinCode for c in model.operatorCodes})
    names = {number: spelled for spelled, number in vars(schema.BuiltinOperator).items() if spelled[0] != "_"}
    adding = " \\\n".join(f"  (resolver).Add{method(names[code])}();" for code in codes)
    ends = (("INPUT", graph.inputs[0]), ("OUTPUT", graph.outputs[0]))
    grids = "\n".join(_grid(f"{name}_{end}", graph.tensors[index]) for end, index in ends)
    return f"""#ifndef {name}_H
#define {name}_H

#ifdef __cplusplus
extern "C" {{
#endif
extern const unsigned char {name}[{len(data)}]; /* aligned to {ALIGNMENT} bytes */
#ifdef __cplusplus
}}
#endif

#define {name}_ARENA {arena} /* bytes, as measured with 64-bit pointers */

/* real number = (integer - ZERO) * SCALE; numbers are in the order of the shape, the last dimension fastest */
{grids}

/* What the model is made of, for a tflite::MicroMutableOpResolver<{name}_OPERATORS>. */
#define {name}_OPERATORS {len(codes)}
#define {name}_ADD_OPERATORS(resolver) \\
{adding}

#endif
"""


def method(operator: str) -> str:
    """What follows ``Add`` in the name of the method that registers an operator, such as Conv2D for CONV_2D."""
    parts = operator.split("_")
    return _METHODS.get(operator) or "".join(p if p[0].isdigit() else p.capitalize() for p in parts)


def _grid(name: str, tensor: Any) -> str:
    scales: Sequence[float] = () if tensor.quantization is None else tensor.quantization.scale
    shape = [int(n) for n in tensor.shape]
    total = 1
    for side in shape:
        total *= side
    lines = [f"#define {name}_NUMBERS {total} /* {' x '.join(map(str, shape))} */"]
    if scales is not None and len(scales) == 1:
        zero = int(tensor.quantization.zeroPoint[0])
        lines += [f"#define {name}_SCALE {float(scales[0])!r}f", f"#define {name}_ZERO ({zero})"]
    return "\n".join(lines)
