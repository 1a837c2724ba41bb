"""The most that one core of this machine gives: of multiplications in a matrix product, and of memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

SIDE = 512  # small enough to be done, most often, before another process takes the core
TRIES = 400
COPIED = 64 * 2**20


@dataclass(frozen=True)
class Roofs:
    """``gflops``: of the fastest library for a product of two 512 × 512 matrices in single precision, by library.

    ``bandwidth``: bytes read and written a second when memory is copied, in GB.
    """

    gflops: dict[str, float]
    bandwidth: float

    @property
    def best(self) -> float:
        return max(self.gflops.values())


def measure() -> Roofs:
    return Roofs({"PyTorch": product_in_torch(), "ONNX Runtime": product_in_onnxruntime()}, copying())


def product_in_torch() -> float:
    import torch

    torch.set_num_threads(1)
    a, b = torch.rand(SIDE, SIDE), torch.rand(SIDE, SIDE)
    return 2 * SIDE**3 / fastest(lambda: a @ b) / 1e9


def product_in_onnxruntime() -> float:
    import numpy as np
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    numbers = np.random.default_rng(0).random((SIDE, SIDE), dtype=np.float32)
    weight = onnx.numpy_helper.from_array(numbers, "w")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (SIDE, SIDE)) for name in "xy"]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "product", ends[:1], ends[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return 2 * SIDE**3 / fastest(lambda: session.run(None, {"x": numbers})) / 1e9


def copying() -> float:
    import numpy as np

    source = np.ones(COPIED, dtype=np.uint8)
    target = np.empty_like(source)
    return 2 * COPIED / fastest(lambda: np.copyto(target, source)) / 1e9


def fastest(work: Callable[[], object]) -> float:
    """Seconds of the fastest of several tries."""
    times = []
    for _ in range(TRIES):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)
