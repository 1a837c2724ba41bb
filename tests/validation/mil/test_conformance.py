"""A sample of coremltools' own tests, answered by the interpreter, through the tool that runs all of them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).parents[3] / "tools"
OPERATIONS = "coremltools/converters/mil/mil/ops/tests"
CASES = 160
OTHERS = (  # of each of the other suites a few cases, most of which make predictions
    "coremltools/converters/mil/frontend/torch/test/test_torch_stateful_model.py",
    "coremltools/converters/mil/mil/passes/tests/test_cleanup_passes.py::TestExpandDynamicLinear",
    "coremltools/converters/mil/backend/mil/test_load.py::TestStateModelLoad",
    "coremltools/test/optimize/coreml/test_post_training_quantization.py::TestPruneWeights",
    "coremltools/test/modelpackage/test_modelpackage.py::TestSpecAndMLModelAPIs",
)
ACTIVATIONS = f"{OPERATIONS}/iOS14/test_activation.py"
FAULT = """
from torch import Tensor
from lvexport.validation.mil import ops, table

assert ops

@table.op("relu")
def wrong(x: Tensor) -> Tensor:
    return x
"""

NEEDY = """
import sys
import torchvision
from mock import patch
from torchvision import models

def test_without():
    assert "torchvision" not in sys.modules

def test_with():
    models.mobilenet_v2()

def test_imports():
    import no_such_package.part

@patch("sys.byteorder", "middle")
def test_patches():
    assert sys.byteorder == "middle"
"""


@pytest.fixture(scope="module")
def suite():
    sys.path.insert(0, str(TOOLS))
    from coreml_suite import outcomes, run

    def results(records, *paths, **options):
        run.run(run.Suite(paths, records, **options))
        return list(outcomes.read(records).values())

    yield results
    sys.path.remove(str(TOOLS))


@pytest.fixture(scope="module")
def sample(suite, tmp_path_factory):
    return suite(tmp_path_factory.mktemp("sample"), OPERATIONS, sample=CASES, seed=5)


def test_a_sample_of_apples_tests_passes(sample):
    assert [record for record in sample if record.failed] == []
    assert len(sample) == CASES
    assert sum(record.outcome == "passed" and record.predictions > 0 for record in sample) > CASES // 3


def test_only_other_kinds_of_models_and_listed_cases_are_excluded(sample):
    from coreml_suite import exclusions

    reasons = {record.reason for record in sample if record.outcome == "excluded"}
    assert all("neuralNetwork" in reason or reason in exclusions.EXCLUSIONS.values() for reason in reasons)


def test_some_of_every_other_suite_passes(suite, tmp_path):
    from coreml_suite import outcomes
    from coreml_suite.suites import SUITES

    found = suite(tmp_path, *OTHERS)
    assert [record for record in found if record.failed] == []
    for path in OTHERS:
        some = [record for record in found if record.case.startswith(path)]
        assert sum(record.outcome == "passed" and record.predictions > 0 for record in some) > len(some) // 3, path
        assert any(path.startswith(part.paths) for part in SUITES.values())
    assert outcomes.drawn(tmp_path) == (len(found), found)


def test_a_wrong_operation_is_noticed_and_a_retry_runs_only_what_failed(suite, tmp_path):
    (tmp_path / "fault.py").write_text(FAULT)
    records = tmp_path / "records"
    picked = ("-k", "(TestReLU or TestSigmoid) and not TestReLU6 and not Hard and backend_smoke and mlprogram")
    found = suite(records, ACTIVATIONS, plugins=("fault",), folders=(tmp_path,), options=picked)
    assert {record.case.split("::")[1]: record.failed for record in found} == {"TestReLU": True, "TestSigmoid": False}
    assert "Not equal to tolerance" in next(record.reason for record in found if record.failed)
    assert all(record.predictions == 1 for record in found)

    again = suite(records, ACTIVATIONS, options=(*picked, "--retry"))
    assert not any(record.failed for record in again)
    second = max(records.glob("*.jsonl")).read_text()
    assert "TestReLU" in second
    assert "TestSigmoid" not in second


def test_a_missing_package_keeps_only_the_cases_that_call_it_from_running(suite, tmp_path):
    from coreml_suite.absent import NEEDS, Absent

    (tmp_path / "test_needy.py").write_text(NEEDY)
    found = {record.case.split("::")[1]: record for record in suite(tmp_path / "records", tmp_path / "test_needy.py")}
    assert {name: record.outcome for name, record in found.items()} == {
        "test_without": "passed",
        "test_with": "excluded",
        "test_imports": "excluded",
        "test_patches": "passed",
    }
    assert found["test_with"].reason == NEEDS.format("torchvision")
    assert found["test_imports"].reason == NEEDS.format("no_such_package")
    assert not hasattr(Absent("torchvision"), "__version__")  # or it would look like one that is installed


def test_apples_tests_take_this_machine_for_a_mac_and_nobody_else_does(suite, monkeypatch):
    from coreml_suite import mac

    asks = ModuleType("coremltools.test.asks")
    asks.__dict__.update(sys=sys, _macos_version=tuple)
    monkeypatch.setitem(sys.modules, asks.__name__, asks)
    platform = sys.platform
    mac.pretend_to_tests()
    assert (asks.sys.platform, asks._macos_version()) == ("darwin", mac.MACOS)
    assert asks.sys.version_info == sys.version_info
    assert sys.platform == platform


def test_the_page_about_several_suites_says_what_is_a_sample(suite):
    from coreml_suite.outcomes import Record
    from coreml_suite.overview import Result, page
    from coreml_suite.run import site_packages
    from coreml_suite.suites import Part

    right, wrong = Record("a.py::right", "passed", predictions=2), Record("a.py::wrong", "failed", "Not equal", 1)
    lost = Record("b.py::lost", "failed", f"no {site_packages()}/coremltools/x.py")
    text = page(
        [Result("a", Part("as", ("a.py",)), 90, [right, wrong]), Result("b", Part("bs", ("b.py",)), 1, [lost])], 7
    )
    assert "**50.00%** of the 2 cases" in text
    assert "drawn with seed 7" in text
    assert "| `a` | 90 | 2 | 1 | 1 | 0 | 0 | 0 | 0 | 50.00% |" in text
    assert "| `b` | 1 | 1 | 0 | 0 | 1 | 0 | 0 | 0 | none made |" in text
    assert "| `a.py::wrong` | Not equal |" in text
    assert "| 1 | no coremltools/x.py |" in text


def test_what_fails_before_the_interpreter_is_asked_is_counted_apart(suite):
    from coreml_suite.outcomes import Record
    from coreml_suite.report import Counts, page

    records = [
        Record("a.py::wrong", "failed", "Not equal", predictions=1),
        Record("a.py::refused", "failed", "UnsupportedOp", refused=1),
        Record("a.py::killed", "begun", "the process ended"),
        Record("a.py::converter", "failed", "TypeError"),
        Record("a.py::right", "passed", predictions=2),
        Record("a.py::program", "passed"),
        Record("a.py::older", "excluded", "neuralNetwork"),
    ]
    assert Counts.of(records) == Counts(passed=1, failed=3, unasked=1, unpredicted=1, skipped=0, excluded=1)
    assert Counts.of(records).share == 0.25
    assert "| `a.py` | 7 | 1 | 3 | 1 | 1 | 0 | 1 |" in page("a.py", records)
