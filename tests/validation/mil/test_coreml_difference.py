"""The program that compares the interpreter with Core ML, with the interpreter on both sides."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest

TOOLS = Path(__file__).parents[3] / "tools"
ACTIVATIONS = "coremltools/converters/mil/mil/ops/tests/iOS14/test_activation.py"
# The side under test has every result of a sigmoid a little too large.
SHIFTED = """
from coreml_suite import binding, compare

class Shifted(binding.Proxy):
    def predict(self, data, state=None):
        results = super().predict(data, state)
        wrong = any(operation.type == "sigmoid" for operation in self.model.operations)
        return {name: value + 0.25 if wrong else value for name, value in results.items()}

compare.Both.tested = Shifted
"""


@pytest.fixture(scope="module", autouse=True)
def tools():
    sys.path.insert(0, str(TOOLS))
    yield
    sys.path.remove(str(TOOLS))


def test_a_shifted_side_is_seen_and_the_tests_get_the_references_results(tmp_path):
    import coreml_difference
    from coreml_suite import differences, outcomes

    (tmp_path / "shifted.py").write_text(SHIFTED)
    picked = ("-k", "(TestReLU or TestSigmoid) and not TestReLU6 and not Hard and backend_smoke")
    found = coreml_difference.compare(
        ACTIVATIONS, tmp_path / "out", plugins=("shifted",), folders=(tmp_path,), options=picked
    )
    table = {row[0]: row for row in differences.rows(found)}
    assert table.keys() == {"relu", "sigmoid"}
    assert table["relu"][1:] == ("1", "1", "0", "0", "", "0")
    assert table["sigmoid"][1:4] == ("1", "0", "0.25")
    assert -10 < float(table["sigmoid"][5]) < 20
    records = outcomes.read(tmp_path / "out" / "records").values()
    assert {record.outcome for record in records} == {"passed", "excluded"}  # neural networks are excluded
    page = (tmp_path / "out" / "differences.md").read_text()
    assert page.index("| sigmoid |") < page.index("| relu |")


def measured(wanted, found):
    from coreml_suite import differences

    return differences.difference(("add",), wanted, found)


def test_differences_of_arrays():
    first = np.array([1.0, -2.0, 0.0, math.inf, math.nan], np.float32)
    same = measured(first, first.astype(np.float64))
    assert (same.max_abs, same.max_rel, same.sqnr_db, same.error) == (0, 0, None, "")
    other = measured(first, np.array([1.5, -2.0, 0.125, math.inf, math.nan]))
    assert (other.max_abs, other.max_rel) == (0.5, 0.5)
    assert other.sqnr_db == pytest.approx(10 * math.log10(5 / (0.25 + 0.125**2)))


@pytest.mark.parametrize(
    ("wanted", "found", "error"),
    [
        (np.zeros(3), np.zeros((1, 3)), "shapes"),
        (np.array([1.0, math.nan]), np.array([1.0, 2.0]), "finite"),
        ("cat", "dog", "cat"),
        (np.zeros(3), None, "shapes"),
        ({"cat": 0.5}, {"dog": 0.5}, "cat"),
    ],
)
def test_what_cannot_be_compared_is_an_error(wanted, found, error):
    assert error in measured(wanted, found).error


def test_labels_and_probabilities():
    assert measured("cat", "cat").error == ""
    assert measured({"cat": 0.5, "dog": 0.25}, {"dog": 0.25, "cat": 0.75}).max_abs == 0.25
