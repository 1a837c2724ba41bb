"""Small packages of every kind, by coremltools' own builder, to be damaged."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
CHANCE = np.random.default_rng(7)
IMAGE = (1, 3, 16, 16)


def normal(*shape: int) -> Array:
    return CHANCE.standard_normal(shape).astype(np.float32)


def network(mb: Any, x: Any, dtype: type = np.float32) -> Any:
    """Two convolutions, pooling and a linear layer: 10 logits."""
    x = mb.relu(x=mb.conv(x=x, weight=normal(16, 3, 3, 3).astype(dtype), pad_type="same"))
    x = mb.conv(x=x, weight=normal(32, 16, 3, 3).astype(dtype), strides=[2, 2], pad_type="valid")
    x = mb.avg_pool(x=x, kernel_sizes=[2, 2], strides=[2, 2], pad_type="valid")
    x = mb.reshape(x=mb.pad(x=x, pad=[1, 1, 0, 0]), shape=[1, -1])
    return mb.linear(x=x, weight=normal(10, 480).astype(dtype))


def conv(mb: Any, x: Any) -> Any:
    return network(mb, x)


def half(mb: Any, x: Any) -> Any:
    return mb.softmax(x=network(mb, x, np.float16), axis=-1)


def palettes(mb: Any, x: Any) -> Any:
    from coremltools.converters.mil.mil import types

    indices = CHANCE.integers(0, 16, (32, 64)).astype(types.nptype_from_builtin(types.uint4))
    weight = mb.constexpr_lut_to_dense(indices=indices, lut=normal(2, 1, 16, 1))
    steps = CHANCE.integers(-8, 8, (16, 32)).astype(types.nptype_from_builtin(types.int4))
    second = mb.constexpr_blockwise_shift_scale(data=steps, scale=normal(16, 2))
    return mb.linear(x=mb.gelu(x=mb.linear(x=x, weight=weight)), weight=second)


def control(mb: Any, x: Any) -> Any:
    ls = mb.make_list(init_length=1, elem_shape=(1, 8))

    def body(i: Any, value: Any, ls: Any) -> tuple[Any, ...]:
        even = mb.equal(x=mb.mod(x=i, y=2), y=0)
        value = mb.cond(
            pred=even,
            _true_fn=lambda: mb.linear(x=value, weight=normal(8, 8)),
            _false_fn=lambda: mb.tanh(x=value),
        )
        return mb.add(x=i, y=1), value, mb.list_write(ls=ls, index=i, value=value)

    _, _, full = mb.while_loop(
        _cond=lambda i, value, ls: mb.less(x=i, y=5), _body=body, loop_vars=(np.int32(0), mb.identity(x=x), ls)
    )
    return mb.list_gather(ls=full, indices=mb.range_1d(start=0, end=mb.list_length(ls=full), step=1))


def stateful(mb: Any, x: Any, memory: Any) -> Any:
    kept = mb.coreml_update_state(state=memory, value=mb.add(x=mb.read_state(input=memory), y=x))
    return mb.linear(x=kept, weight=normal(64, 64).astype(np.float16))


def classifier(mb: Any, x: Any) -> Any:
    return mb.softmax(x=network(mb, x), axis=-1)


def build_all(folder: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Each kind's package below ``folder``, and inputs for it."""
    warnings.simplefilter("ignore")
    import coremltools as ct

    labels = ct.ClassifierConfig([f"class {i}" for i in range(10)])
    image = [ct.ImageType(name="x", shape=IMAGE, scale=1 / 255)]
    picture = CHANCE.integers(0, 256, (*IMAGE[2:], 3)).astype(np.uint8)
    kinds: dict[str, tuple[Callable[..., Any], Array, str, dict[str, Any], Any]] = {
        "conv": (conv, normal(*IMAGE), "iOS15", {}, None),
        "half": (half, normal(*IMAGE).astype(np.float16), "iOS17", {}, None),
        "palettes": (palettes, normal(1, 64), "iOS18", {}, None),
        "control": (control, normal(1, 8), "iOS17", {}, None),
        "stateful": (stateful, normal(1, 64).astype(np.float16), "iOS18", {}, None),
        "classifier": (classifier, normal(*IMAGE), "iOS16", {"inputs": image, "classifier_config": labels}, picture),
    }
    made = {}
    for name, (build, example, target, options, given) in kinds.items():
        states = {"memory": example.shape} if name == "stateful" else {}
        save(folder / f"{name}.mlpackage", build, example, states, ct.target[target], options)
        made[name] = (folder / f"{name}.mlpackage", {"x": example if given is None else given})
    return made


def save(
    path: Path, build: Callable[..., Any], x: Array, states: Mapping[str, Any], target: Any, options: dict[str, Any]
) -> None:
    import coremltools as ct
    from coremltools.converters.mil import mil as pymil
    from coremltools.converters.mil.mil import Builder, types

    element = types.fp16 if x.dtype == np.float16 else types.fp32
    inputs = {"x": Builder.placeholder(x.shape, element)}
    inputs |= {name: Builder.state_tensor_placeholder(shape, types.fp16) for name, shape in states.items()}
    program = pymil.Program()
    with pymil.Function(inputs, opset_version=target) as function:
        function.set_outputs([Builder.identity(x=build(Builder, **function.inputs), name="out")])
        program.add_function("main", function)
    options = {"pass_pipeline": ct.PassPipeline.EMPTY, "skip_model_load": True, **options}
    ct.convert(program, source="milinternal", convert_to="mlprogram", minimum_deployment_target=target, **options).save(
        str(path)
    )
