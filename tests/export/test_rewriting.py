"""Rewriting in the main job: what the manifest says of it, and what happens where it fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from lvexport import making
from lvexport.bundle import Bundle
from lvexport.converters.contract import Captured
from lvexport.converters.rewrites.defaults import default
from lvexport.errors import CellError
from lvexport.jobs import CAPTURE, CaptureJob, Limits
from lvexport.plan import Cell
from lvexport.processes import Workshop
from lvexport.source import resolve
from tests.conftest import Run

ONNX = Cell("onnx", "fp32", ())


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path / "shop", Limits())


@pytest.fixture
def captured(shop: Workshop) -> Captured:
    path = shop.folder / "program.pt2"
    found = CAPTURE.validate_python(shop.do(CaptureJob(resolve("mobilevit_xxs", "demo"), path)))
    return Captured(path, found.inputs, found.outputs)


def test_the_manifest_says_what_was_rewritten_and_delegated(bundle: Bundle) -> None:
    (pte,) = [a for a in bundle.results if (a.target, a.recipe) == ("executorch", "fp32")]
    assert pte.rewrites == default("executorch", "fp32", "mobilevit")
    assert pte.rewrites_sqnr_db is not None
    assert pte.rewrites_sqnr_db > 110
    assert pte.delegation is not None
    assert pte.delegation.calls <= 3
    assert all(pte.delegation.outside.values())


def test_a_rewrite_that_fails_costs_speed_and_no_artifact(shop: Workshop, captured: Captured) -> None:
    out = shop.folder / "model.onnx"
    notes, rewrites = making.convert(shop, ONNX, captured, out, ("nonsense",), "default")
    assert out.exists()
    assert rewrites == ()
    assert "as it was captured" in notes.remarks[-1]
    with pytest.raises(CellError, match="nonsense"):
        making.convert(shop, ONNX, captured, out, ("nonsense",), "tune")


def test_an_unknown_way_to_optimize_is_a_usage_error(lvexport: Run) -> None:
    done = lvexport("mobilevit", "--weights", "demo", "--to", "onnx", "--optimize", "tuned")
    assert done.returncode == 2
    assert "Did you mean tune?" in done.stderr
