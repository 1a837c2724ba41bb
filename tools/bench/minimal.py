"""The shortest scripts by which the converters' own documentation makes an artifact: what ours is compared with.

``python -m tools.bench.minimal TARGET RECIPE MODEL IMGSZ OUT [WEIGHTS]``, with random weights where none are named.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class Half(nn.Module):
    """A model in half precision that takes and gives single precision, as the artifacts of both sides do."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.half()

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.model(image.half())
        return logits.float()


def executorch(model: nn.Module, example: Any, out: Path, half: bool) -> None:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    program = torch.export.export(Half(model) if half else model, example)
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    out.write_bytes(lowered.buffer)


def tflite(model: nn.Module, example: Any, out: Path, half: bool) -> None:
    import litert_torch

    litert_torch.convert(model, example).export(str(out))
    if half:
        from ai_edge_quantizer import qtyping, quantizer

        casting = quantizer.Quantizer(str(out))
        casting.update_quantization_recipe(
            regex=".*",
            operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
            op_config=qtyping.OpQuantizationConfig(
                weight_tensor_config=qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT),
                compute_precision=qtyping.ComputePrecision.FLOAT,
                explicit_dequantize=True,
            ),
            algorithm_key=quantizer.AlgorithmName.FLOAT_CASTING,
        )
        casting.quantize().export_model(str(out), overwrite=True)


def onnx(model: nn.Module, example: Any, out: Path, half: bool) -> None:
    import onnx as library

    exported = torch.onnx.export(model, example, dynamo=True, verbose=False)
    assert exported is not None
    proto = exported.model_proto
    if half:
        from onnxruntime.transformers.float16 import convert_float_to_float16

        proto = convert_float_to_float16(proto, keep_io_types=True)
    library.save(proto, str(out))


def coreml(model: nn.Module, example: Any, out: Path, half: bool) -> None:
    import coremltools as ct

    precision = ct.precision.FLOAT16 if half else ct.precision.FLOAT32
    program = torch.export.export(model, example).run_decompositions({})
    made = ct.convert(
        program,
        outputs=[ct.TensorType(dtype=np.float32)],
        compute_precision=precision,
        minimum_deployment_target=ct.target.iOS16,
    )
    made.save(str(out))


SCRIPTS = {"coreml": coreml, "executorch": executorch, "tflite": tflite, "onnx": onnx}


def main() -> None:
    import lvexport

    target, recipe, name, imgsz, out, *weights = sys.argv[1:]
    model = lvexport.build(name, weights=weights[0] if weights else "random", imgsz=int(imgsz))
    example = (torch.rand(1, 3, int(imgsz), int(imgsz)),)
    with torch.no_grad():
        SCRIPTS[target](model, example, Path(out), recipe == "fp16")


if __name__ == "__main__":
    main()
