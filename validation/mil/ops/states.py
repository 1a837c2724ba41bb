"""Reading and writing states (``iOS18/states.py``).

coremltools saves its ``coreml_update_state`` as ``write_state`` and, where the result is used, ``read_state``
(``translate_coreml_update_state_op`` in ``converters/mil/backend/mil/load.py``).
"""

from __future__ import annotations

from torch import Tensor

from lvexport.validation.mil.conformity import conforms
from lvexport.validation.mil.program import Opset
from lvexport.validation.mil.states import Cell
from lvexport.validation.mil.table import op


@op("read_state", exact=True, since=Opset.IOS18)
def read_state(input: Cell) -> Tensor:  # noqa: A002 - the operation's own name for it
    return input.value


@op("write_state", exact=True, since=Opset.IOS18, effect=True)
def write_state(input: Cell, data: Tensor) -> tuple[()]:  # noqa: A002 - as above
    """Makes no value: what is written is read by ``read_state``."""
    if not conforms(data, input.type):
        raise ValueError(f"a tensor of shape {tuple(data.shape)} is written to a state of type {input.type}")
    input.value = data
    return ()
