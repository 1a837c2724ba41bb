"""Small Core ML packages, made with coremltools' own builder, for the interpreter's tests."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import numpy as np
import pytest

from lvexport.validation import mil

Array = np.ndarray[Any, Any]
Build = Callable[..., Any]


@pytest.fixture(scope="session")
def ct() -> ModuleType:
    """coremltools, imported once: that takes some 15 s."""
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import coremltools
    logging.disable(logging.NOTSET)
    return coremltools


@pytest.fixture(scope="session")
def save(ct: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """save(build, inputs, target, …, **options): a package of the program that ``build(mb, **inputs)`` makes.

    ``inputs`` are arrays whose shapes and types the program's inputs get, ``states`` the shapes of states of
    half-precision numbers, ``shapes`` other shapes for inputs than those of the arrays, and ``outputs`` the kinds
    of the results. ``build`` returns the results by name.
    The program is saved operation by operation as it was written, without coremltools' graph passes.
    """
    from coremltools.converters.mil import mil as pymil
    from coremltools.converters.mil.mil import Builder, types

    element_types = {"float32": types.fp32, "float16": types.fp16, "int32": types.int32}

    def save(
        build: Build,
        inputs: Mapping[str, Array],
        target: str = "iOS17",
        /,
        states: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
        shapes: Mapping[str, tuple[Any, ...]] = MappingProxyType({}),
        outputs: Sequence[Any] | None = None,
        **options: Any,
    ) -> Path:
        placeholders = {
            name: Builder.placeholder(
                shapes.get(name, array.shape), element_types[array.dtype.name], allow_rank0_input=True
            )
            for name, array in inputs.items()
        }
        placeholders |= {name: Builder.state_tensor_placeholder(shape, types.fp16) for name, shape in states.items()}
        program = pymil.Program()
        with pymil.Function(placeholders, opset_version=ct.target[target]) as function:
            results = build(Builder, **function.inputs)
            function.set_outputs([Builder.identity(x=value, name=name) for name, value in results.items()])
            if outputs is not None:
                function.set_output_types(outputs)
            program.add_function("main", function)
        converted = ct.convert(
            program,
            source="milinternal",
            convert_to="mlprogram",
            minimum_deployment_target=ct.target[target],
            skip_model_load=True,
            **{"pass_pipeline": ct.PassPipeline.EMPTY, **options},
        )
        path = tmp_path_factory.mktemp("package") / "model.mlpackage"
        converted.save(str(path))
        return path

    return save


@pytest.fixture(scope="session")
def run(save: Callable[..., Path]) -> Callable[..., dict[str, Array]]:
    """run(build, inputs, target): the results of that program on those inputs, by the interpreter."""

    def run(build: Build, inputs: Mapping[str, Array], target: str = "iOS17") -> dict[str, Array]:
        return mil.load(save(build, inputs, target)).predict(inputs)

    return run


@pytest.fixture(scope="session")
def rng() -> np.random.Generator:
    return np.random.default_rng(20)
