"""Learning the table of default rewrites: what is accepted, what is shared, and what is kept of the old table."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lvexport.converters.contract import Captured, TensorSpec
from lvexport.converters.rewrites import defaults
from lvexport.converters.rewrites.registry import REWRITES
from lvexport.errors import CellError
from lvexport.jobs import ConvertJob
from lvexport.models.registry import ENTRIES
from lvexport.plan import Cell
from lvexport.tuning import Search
from tools import learn

ONNX = Cell("onnx", "fp32", ())


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(x)).mean(dim=(2, 3))
        return y


@pytest.fixture
def captured(tmp_path: Path) -> Captured:
    path = tmp_path / "small.pt2"
    torch.export.save(torch.export.export(Small().eval(), (torch.rand(1, 3, 8, 8),)), path)
    return Captured(path, (TensorSpec("image", (1, 3, 8, 8), "float32"),), (TensorSpec("y", (1, 8), "float32"),))


def job(captured: Captured, out: Path, *rewrites: str) -> ConvertJob:
    return ConvertJob("onnx", "fp32", {}, captured, out, rewrites)


def test_the_same_program_is_converted_once(captured: Captured, tmp_path: Path) -> None:
    here = learn.Here(tmp_path)
    outs = [tmp_path / f"{i}.onnx" for i in range(3)]
    for out, rewrites in zip(outs, ((), ("attention",), ("batch-norms",)), strict=True):
        here.do(job(captured, out, *rewrites))
    assert len(here.made) == 2  # there is no attention
    assert outs[0].read_bytes() == outs[1].read_bytes() != outs[2].read_bytes()


def test_what_fails_fails_each_time(captured: Captured, tmp_path: Path) -> None:
    here = learn.Here(tmp_path)
    for name in ("first", "second"):
        with pytest.raises(CellError):
            here.do(ConvertJob("onnx", "nonsense", {}, captured, tmp_path / name))


class Parted(nn.Module):
    """Two convolutions, and between them what XNNPACK has no kernel for."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.norm(self.first(x)).cumsum(3)).mean(dim=(2, 3))
        return y


def test_what_leaves_the_delegate_is_not_learned(tmp_path: Path) -> None:
    here = learn.Here(tmp_path, learn.CALLS)
    for model, parts in ((Small(), 1), (Parted(), 2)):
        path = tmp_path / f"{parts}.pt2"
        torch.export.save(torch.export.export(model.eval(), (torch.rand(1, 3, 8, 8),)), path)
        program = Captured(path, (TensorSpec("image", (1, 3, 8, 8), "float32"),), (TensorSpec("y", (1, 8), "float32"),))
        plain, rewritten = (tmp_path / f"{parts}-{kind}.pte" for kind in ("plain", "rewritten"))
        here.do(ConvertJob("executorch", "fp32", {}, program, plain))
        assert learn.parts(plain)[0] == parts
        job = ConvertJob("executorch", "fp32", {}, program, rewritten, ("batch-norms",))
        if parts == 1:
            here.do(job)
        else:
            with pytest.raises(CellError, match="2 calls of the delegate"):
                here.do(job)
        assert rewritten.exists() == (parts == 1)


class Priced(Search):
    """A search in which each rewrite has a price."""

    def __init__(self, folder: Path, cost: dict[str, float]) -> None:
        super().__init__(learn.Here(folder), ONNX, Captured(folder, (), ()), print, rounds=1)
        self.cost = cost

    def make(self, sequence: tuple[str, ...]) -> Path | None:
        self.digests[sequence] = str(sorted(set(sequence) & self.cost.keys()))  # the others change nothing
        return None if "slices" in sequence else self.shop.folder

    def ratios(self, sequences: Any, rounds: int = 1) -> list[list[float]]:
        totals = [math.prod(self.cost.get(name, 1.0) for name in sequence) for sequence in sequences]
        return [[total / totals[0]] for total in totals]


def test_a_row_is_shrunk_until_no_network_loses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The searched network gains by both, the other loses by one of them."""
    cost = {"searched": {"views": 0.8, "means": 0.9}, "other": {"views": 0.9, "means": 1.5}}
    monkeypatch.setattr(learn, "FAMILIES", {"family": ("searched", "other")})
    monkeypatch.setattr(learn, "search", lambda shop, cell, name, rounds=0: Priced(tmp_path, cost[name]))
    found = learn.learn(ONNX, "family", tmp_path)
    assert found["rewrites"] == ["views"]
    assert found["networks"]["other"]["ratio"] == 0.9
    cost["other"]["views"] = 1.1
    assert learn.learn(ONNX, "family", tmp_path)["rewrites"] == []


@pytest.mark.parametrize(
    ("now", "cost", "expected"),
    [
        ((), {"means": 0.9, "scales": 0.9}, ["views", "scales", "means"]),
        ((), {"means": 0.9, "scales": 1.1}, ["views", "means"]),
        ((), {"means": 1.1}, []),
        (("attention",), {"attention": 0.9, "means": 0.95}, ["attention"]),
        (("attention",), {"attention": 0.95, "means": 0.9}, ["views", "scales", "means"]),
        (("attention",), {"attention": 0.9, "means": 0.899}, ["attention"]),
        (("slices",), {"slices": 0.1, "means": 0.9}, ["views", "scales", "means"]),
    ],
    ids=[
        "what some have",
        "what all have",
        "nothing",
        "what they had",
        "what some have is better",
        "not enough better",
        "what they had cannot be made",
    ],
)
def test_networks_of_no_family_get_what_costs_no_network_anything(
    now: tuple[str, ...],
    cost: dict[str, float],
    expected: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    rows = [{"rewrites": ["means", "views", "scales"]}, {"rewrites": ["views", "means"]}]
    monkeypatch.setattr(learn, "NETWORKS", ("one", "other"))
    monkeypatch.setattr(learn, "default", lambda *place: now)
    monkeypatch.setattr(learn, "search", lambda shop, cell, name, rounds=0: Priced(tmp_path, cost))
    assert learn.learn_others(ONNX, rows, tmp_path)["rewrites"] == expected


def test_what_all_families_share() -> None:
    rows = [{"rewrites": ["means", "views", "scales"]}, {"rewrites": ["views", "means"]}]
    assert learn.common(rows) == ("views", "means")
    assert learn.common([*rows, {"rewrites": []}]) == ()


def test_rows_join_the_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    table = tmp_path / "defaults.json"
    table.write_text(json.dumps({"measured": {}, "rewrites": {"executorch": {"fp32": {"others": ["views"]}}}}))
    monkeypatch.setattr(learn, "TABLE", table)
    monkeypatch.setattr(learn, "WORK", tmp_path)
    learn.kept("tflite", "fp32", "mobilevit").write_text(json.dumps({"rewrites": ["means"], "networks": {}}))
    learn.write()
    written = json.loads(table.read_text())
    assert written["rewrites"]["executorch"] == {"fp32": {"others": ["views"]}}
    assert written["rewrites"]["tflite"] == {r: {"mobilevit": ["means"], "others": []} for r in ("fp32", "fp16")}
    assert written["measured"]["tflite"]["fp32"]["mobilevit"] == {"networks": {}}


def test_every_family_has_a_network_to_search_on_and_one_to_accept_by() -> None:
    assert set(learn.FAMILIES) == {entry.family for entry in ENTRIES.values()}
    for family, networks in learn.FAMILIES.items():
        assert len(networks) >= 2
        assert {ENTRIES[name].family for name in networks} == {family}


def test_no_row_of_the_table_lost_where_it_was_measured() -> None:
    document = defaults.table()
    for target, recipes in document["measured"].items():
        for recipe, rows in recipes.items():
            for family, found in rows.items():
                assert set(document["rewrites"][target][recipe][family]) <= set(REWRITES)
                assert all(measured["ratio"] <= 1 for measured in found["networks"].values()), (target, recipe, family)
