"""The documents say what is true: examples run, tables and the schema are those of the code."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from lvexport.cell import BOUND_SAMPLES
from lvexport.converters.registry import CONVERTERS
from lvexport.manifest import Manifest
from lvexport.models.registry import ENTRIES, demo
from lvexport.validation.runtimes import coreml

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"<!-- run -->\n```(sh|python)\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize(("language", "code"), EXAMPLES, ids=range(len(EXAMPLES)))
def test_readme_examples_run(language: str, code: str, tmp_path: Path) -> None:
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    line = ["bash", "-euc", code] if language == "sh" else [sys.executable, "-c", code]
    done = subprocess.run(
        line, cwd=tmp_path, capture_output=True, text=True, timeout=900, env={**os.environ, "PATH": path}
    )
    assert done.returncode == 0, done.stderr


def test_readme_names_every_target_and_network() -> None:
    for name in (*CONVERTERS, *ENTRIES):
        assert f"`{name}`" in README


def test_readme_states_the_cards_of_the_demos() -> None:
    shipped = [found for name in ENTRIES if (found := demo(name)) is not None]
    assert {ENTRIES[found.model].family for found in shipped} == {"mobilevit", "mobile_former", "efficientformer"}
    for found in shipped:
        assert f"{found.card['test_accuracy']:.2%}".replace("%", " %") in README
        accuracy, images, seconds = (found.card[key] for key in ("test_accuracy", "test_images", "training_seconds"))
        assert isinstance(accuracy, float)
        assert isinstance(seconds, int)
        assert accuracy >= 0.9
        assert images == 10_000
        assert seconds <= 3600


def test_readme_has_every_cell_of_the_matrix() -> None:
    rows = json.loads((ROOT / "docs" / "matrix.json").read_text())
    assert list(rows) == list(ENTRIES)
    tool = runpy.run_path(str(ROOT / "tools" / "matrix.py"))
    assert set(tool["TARGETS"]) <= set(CONVERTERS)
    for name, row in rows.items():
        assert row["imgsz"] == ENTRIES[name].imgsz
        for target in tool["TARGETS"]:
            for recipe, least in (("fp32", 80), ("fp16", 40)):
                cell = row["cells"][f"{target} {recipe}"]
                assert cell["status"] == "ok", (name, target, recipe)
                assert cell["sqnr_db"] >= least, (name, target, recipe)
    assert tool["table"](rows) in README, "type make matrix"


DOCUMENTS = ("README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    path = ROOT / document
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_published_schema_is_that_of_the_code() -> None:
    published = json.loads((ROOT / "docs" / "manifest.schema.json").read_text())
    assert published == Manifest.model_json_schema(mode="serialization"), "type make schema"


def test_the_interval_is_taken_over_as_many_inputs_as_documented() -> None:
    text = (ROOT / "docs" / "verdict.md").read_text()
    assert f"over the first {BOUND_SAMPLES} inputs" in text
    for numerics in coreml.NUMERICS:
        assert f"| `{numerics}` |" in text


def test_make_targets_named_in_documents_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    text = README + (ROOT / "CONTRIBUTING.md").read_text()
    for target in set(re.findall(r"make ([a-z-]+)", text)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
