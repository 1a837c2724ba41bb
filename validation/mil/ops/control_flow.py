"""Choice, branches, loops and lists (``iOS15/control_flow.py``)."""

from __future__ import annotations

import torch
from torch import Tensor

from lvexport.validation.mil import types
from lvexport.validation.mil.call import Call
from lvexport.validation.mil.lists import TensorList
from lvexport.validation.mil.nesting import Blocks, Value
from lvexport.validation.mil.table import op
from lvexport.validation.mil.types import ListType, Shape, TensorType


@op("select", exact=True)
def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(cond, a, b)


@op("cond", exact=True)
def cond(pred: bool, blocks: Blocks) -> tuple[Value, ...]:
    """The results of the first block if ``pred`` is true, and those of the second if not."""
    true, false = blocks
    return true() if pred else false()


@op("while_loop", exact=True)
def while_loop(loop_vars: tuple[Value, ...], blocks: Blocks) -> tuple[Value, ...]:
    """Runs the second block on its own results for as long as the first one says true of them."""
    condition, body = blocks
    while _truth(*condition(*loop_vars)):
        loop_vars = body(*loop_vars)
    return loop_vars


@op("make_list", exact=True)
def make_list(
    elem_shape: Shape,
    call: Call,
    init_length: int = 1,
    dynamic_length: bool = True,
    dtype: str = "fp32",
) -> TensorList:
    """An element's dimension without a size is known only once an element is written."""
    element = TensorType(types.BY_NAME[dtype], elem_shape)
    declared = call.outputs[0]
    if not isinstance(declared, ListType) or declared.element != element:
        raise ValueError(f"a list of {element} is made and {declared} declared")
    call.expect_elements(element)
    return TensorList(element, init_length, dynamic_length)


@op("list_length", exact=True)
def list_length(ls: TensorList) -> Tensor:
    return torch.tensor(ls.length, dtype=torch.int32)


@op("list_read", exact=True)
def list_read(ls: TensorList, index: int) -> Tensor:
    return ls.read(index)


@op("list_write", exact=True)
def list_write(ls: TensorList, index: int, value: Tensor) -> TensorList:
    return ls.write({index: value})


@op("list_gather", exact=True)
def list_gather(ls: TensorList, indices: tuple[int, ...], call: Call) -> Tensor:
    """Elements ``indices``, stacked: [number of indices, *D]."""
    call.expect((len(indices), *ls.shape()))
    return torch.stack([ls.read(index) for index in indices])


@op("list_scatter", exact=True)
def list_scatter(ls: TensorList, indices: tuple[int, ...], value: Tensor) -> TensorList:
    """value [number of indices, *D]: one element for each place."""
    return ls.write(dict(zip(indices, value.unbind(), strict=True)))


def _truth(value: Value) -> bool:
    if not isinstance(value, Tensor) or value.dtype != torch.bool or value.numel() != 1:
        raise ValueError("the condition of a loop is not one truth value")
    return bool(value)
