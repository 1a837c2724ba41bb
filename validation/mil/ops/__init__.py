"""Operations of MIL, in modules named after those of coremltools' own definitions.

The specification of each is its docstring in coremltools, below ``converters/mil/mil/ops/defs``. Importing this
package fills the op table.
"""

from lvexport.validation.mil.ops import (
    activation,
    classify,
    constexpr,
    control_flow,
    conv,
    crop_resize,
    detection,
    elementwise_binary,
    elementwise_unary,
    image_resizing,
    linear,
    normalization,
    pool,
    quantization,
    random,
    recurrent,
    reduction,
    sampling,
    scatter_gather,
    states,
    tensor_operation,
    tensor_transformation,
    transformers,
)

__all__ = [
    "activation",
    "classify",
    "constexpr",
    "control_flow",
    "conv",
    "crop_resize",
    "detection",
    "elementwise_binary",
    "elementwise_unary",
    "image_resizing",
    "linear",
    "normalization",
    "pool",
    "quantization",
    "random",
    "recurrent",
    "reduction",
    "sampling",
    "scatter_gather",
    "states",
    "tensor_operation",
    "tensor_transformation",
    "transformers",
]
