"""The test suites of coremltools' wheel by name, and how many cases of each are drawn for the page in docs/."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from coreml_suite.exclusions import OPERATIONS, TORCH

MIL = "coremltools/converters/mil"
TESTS = "coremltools/test"
COMPRESSION = f"{TESTS}/optimize/coreml"


@dataclass(frozen=True)
class Part:
    """One suite.

    Attributes:
        about: what it tests, in words.
        paths: files and folders of the wheel, relative to site-packages.
        sample: number of cases to draw, so that a run takes about ten minutes; 0 for all.
    """

    about: str
    paths: tuple[str, ...]
    sample: int = 0


SUITES: Mapping[str, Part] = {
    "operations": Part("MIL's operations", (OPERATIONS,)),
    "torch": Part("conversion from PyTorch", (TORCH,), sample=1000),
    "passes": Part("graph passes", (f"{MIL}/mil/passes/tests",)),
    "programs": Part(
        "MIL programs, and packages made of them and read back",
        (f"{MIL}/mil/tests", f"{MIL}/backend", f"{MIL}/frontend/milproto", f"{MIL}/test_inputs_outputs_shape.py"),
    ),
    "compression": Part(
        "compression of converted models",
        (
            f"{COMPRESSION}/test_post_training_quantization.py",
            "coremltools/optimize",
            f"{TESTS}/optimize/test_utils.py",
        ),
    ),
    "compression-passes": Part(
        "the passes that compress, mostly on programs", (f"{COMPRESSION}/test_passes.py",), sample=500
    ),
    "torch-compression": Part(
        "compression before the conversion", (f"{TESTS}/optimize/torch/conversion", f"{TESTS}/optimize/api"), sample=12
    ),
    "models": Part(
        "the API of models, packages and weight files",
        tuple(f"{TESTS}/{name}" for name in ("api", "blob", "ml_program", "modelpackage", "pipeline")),
    ),
}
