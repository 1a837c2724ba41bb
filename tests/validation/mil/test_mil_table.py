"""Every operation that coremltools has registered is in the op table, with all its parameters, in every opset."""

from __future__ import annotations

import pytest

from lvexport.validation.mil import ops, table
from lvexport.validation.mil.arguments import NOT_ARGUMENTS
from lvexport.validation.mil.program import Opset

assert ops  # importing it fills the table

# No package holds these: constants are read with the program, and symbolic ones are resolved before it is saved.
NEVER_RUN = {"const", "_const_symbolic"}
# Written in the place of the dialect's coreml_update_state (``backend/mil/load.py``); not in the registry.
FROM_DIALECTS = {"write_state"}


@pytest.fixture(scope="module")
def registered(ct):
    """(operation, opset) → its parameters, those that are blocks of operations left out."""
    from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

    return {
        (name, Opset[target.name.upper()]): {
            parameter for parameter in op.input_spec.input_types if parameter[0] != "_"
        }
        for name, versions in SSAOpRegistry.core_ops.items()
        for target, op in versions.items()
        if name not in NEVER_RUN
    }


def shortfall(registered):
    """What the table lacks."""
    lacking = []
    for (name, opset), parameters in registered.items():
        entry = table.find(name, opset)
        if entry is None:
            lacking.append((name, opset.name))
            continue
        own = {key for key, parameter in entry.parameters.items() if parameter.form not in NOT_ARGUMENTS}
        lacking += [(name, opset.name, parameter) for parameter in parameters - own]
    return lacking


def test_every_registered_operation_has_an_entry(registered):
    assert len({name for name, _ in registered}) > 150
    assert {opset for _, opset in registered} >= set(Opset) - {Opset.IOS26}
    assert shortfall(registered) == []


def test_operations_of_dialects_have_an_entry():
    assert table.names() >= FROM_DIALECTS


def test_a_missing_operation_or_parameter_is_noticed(registered, monkeypatch):
    monkeypatch.delitem(table._TABLE, "resample")
    monkeypatch.delitem(table._TABLE["gru"], Opset.IOS18)
    lacking = shortfall(registered)
    assert ("resample", "IOS15") in lacking
    assert {("gru", "IOS18", "reset_after"), ("gru", "IOS18", "input_bias")} <= set(lacking)
