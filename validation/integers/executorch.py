"""Integer layers of an ExecuTorch program: those of its XNNPACK delegates, whose bytes are graphs of their own."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvexport.validation import pte
from lvexport.validation.integers.layers import Grid, Layer, digest, halves_of_bytes

# Kind of layer → the axis of the outputs in its weights (executorch/backends/xnnpack/operators).
_OUTPUTS = {"XNNConv2d": 0, "XNNDepthwiseConv2d": 3, "XNNFullyConnected": 0}
_INFINITE = re.compile(r"\binf\b")
_INTEGERS = ("xnn_datatype_qcint8", "xnn_datatype_qint8")
_FOUR_BITS = ("xnn_datatype_qcint4", "xnn_datatype_qbint4")
_OFFSET = 8  # of 4-bit integers where they are stored


def layers(artifact: Path) -> Iterator[Layer]:
    program = pte.read(artifact)
    constants = program.named_data()
    for delegate in program.delegates("XnnpackBackend"):
        yield from _Graph(delegate, constants).layers()


class _Graph:
    """One delegate, as flatc tells it in JSON."""

    def __init__(self, delegate: bytes, constants: Mapping[str, bytes]) -> None:
        from executorch.backends.xnnpack.serialization import xnnpack_graph_serialize as library
        from executorch.exir._serialize._flatbuffer import _flatc_decompile

        header = library.XNNHeader.from_bytes(delegate[: library.XNNHeader.EXPECTED_LENGTH])
        start = header.flatbuffer_offset
        with tempfile.TemporaryDirectory(prefix="lvexport-") as scratch:
            schema, graph = Path(scratch) / "schema.fbs", Path(scratch) / "graph.bin"
            schema.write_bytes(library._get_schema_bytes())
            graph.write_bytes(delegate[start : start + header.flatbuffer_size])
            _flatc_decompile(scratch, str(schema), str(graph), ["--raw-binary"])
            # flatc writes infinite bounds of activations as C does.
            found = json.loads(_INFINITE.sub("Infinity", (Path(scratch) / "graph.json").read_text()))
        self.nodes = found["xnodes"]
        self.values = {tensor(value).get("id_out", 0): value for value in found["xvalues"]}
        self.stored = found.get("constant_data", [])
        self.inline = delegate[header.constant_data_offset :]
        self.constants = constants

    def layers(self) -> Iterator[Layer]:
        for node in self.nodes:
            kind, layer = node["xnode_union_type"], node["xnode_union"]
            if kind not in _OUTPUTS:
                continue
            weights = self.values[layer.get("filter_id", 0)]
            described = tensor(weights)
            kinds = (*_INTEGERS, *_FOUR_BITS)
            if described.get("datatype") not in kinds or weights.get("xvalue_union_type") != _QUANTIZED:
                continue
            data = self._integers(described)
            given, output = (self.values[layer.get(side, 0)] for side in ("input1_id", "output_id"))
            axis = _OUTPUTS[kind]
            scales = self._scales(weights, data.shape[axis], axis)
            yield Layer(kind, digest(data, axis), scales, grid(given), grid(output))

    def _integers(self, described: Mapping[str, Any]) -> NDArray[np.int8]:
        stored, dims = self._bytes(described["constant_buffer_idx"]), described["dims"]
        if described["datatype"] in _INTEGERS:
            return np.frombuffer(stored, np.int8).reshape(dims)
        rows = np.frombuffer(stored, np.uint8).reshape(dims[0], -1)  # each begins with a byte of its own
        both = halves_of_bytes(rows)[:, : dims[1]]
        return (both.astype(np.int8) - _OFFSET).astype(np.int8)

    def _scales(self, value: Mapping[str, Any], count: int, axis: int) -> NDArray[np.float64]:
        known = value["xvalue_union"]["quant_params"]
        if value["xvalue_union"]["quant_params_type"] == "PerTensorQuant":
            return np.full(count, known["scale"])
        if known.get("channel_dim", 0) != axis:
            return np.full(count, np.nan)
        if value["xvalue_union"]["quant_params_type"] == "PerChannelGroupQuant":  # bfloat16 is half of a float32
            halves = np.frombuffer(self._bytes(known["scale_buffer_idx"]), np.uint16)[: known["num_scales"]]
            return (halves.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        if known.get("scale"):
            return np.asarray(known["scale"], np.float64)
        return np.frombuffer(self._bytes(known["scale_buffer_idx"]), np.float32).astype(np.float64)[:count]

    def _bytes(self, index: int) -> bytes:
        entry = self.stored[index]
        if entry.get("named_key"):
            return self.constants[entry["named_key"]][: entry["size"]]
        start = entry.get("offset", 0)
        return self.inline[start : start + entry["size"]]


_QUANTIZED = "XNNQuantizedTensorValue"


def tensor(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """A value's description without its grid."""
    union: Mapping[str, Any] = value["xvalue_union"]
    inner: Mapping[str, Any] = union.get("tensor_value", union)
    return inner


def grid(value: Mapping[str, Any]) -> Grid | None:
    if value["xvalue_union_type"] != _QUANTIZED or value["xvalue_union"]["quant_params_type"] != "PerTensorQuant":
        return None
    known = value["xvalue_union"]["quant_params"]
    return float(known["scale"]), int(known.get("zero_point", 0))
