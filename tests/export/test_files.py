"""Folders that appear whole or not at all, also where the file system has neither swaps nor hard links."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lvexport import files


def folder(path: Path, **content: str) -> Path:
    path.mkdir()
    for name, text in content.items():
        (path / name).write_text(text)
    return path


@pytest.fixture(params=[True, False], ids=["swap", "no-swap"])
def swapping(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """The file system as it is, or one that cannot swap two names."""
    if not request.param:
        monkeypatch.setattr(files, "exchange", lambda a, b: False)
    return bool(request.param)


@pytest.mark.usefixtures("swapping")
def test_new_replaces_old_whole(tmp_path: Path) -> None:
    final = folder(tmp_path / "final", old="1")
    files.put_in_place(folder(tmp_path / ".final.new", new="2"), final)
    assert sorted(p.name for p in final.iterdir()) == ["new"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["final"]


def test_exchange_works_here(tmp_path: Path) -> None:
    """Linux and macOS swap on their common file systems; where this fails the fallback is what runs."""
    a, b = folder(tmp_path / "a", x="1"), folder(tmp_path / "b", y="2")
    assert files.exchange(a, b)
    assert (a / "y").exists()
    assert (b / "x").exists()


def test_exchange_with_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        files.exchange(folder(tmp_path / "a"), tmp_path / "missing")


def test_a_folder_set_aside_by_a_killed_run_comes_back(tmp_path: Path) -> None:
    final = tmp_path / "final"
    folder(files.aside_name(final), old="1")
    files.recover(final)
    assert (final / "old").read_text() == "1"
    assert not files.aside_name(final).exists()


def test_what_was_set_aside_goes_once_the_new_one_is_there(tmp_path: Path) -> None:
    final = folder(tmp_path / "final", new="2")
    folder(files.aside_name(final), old="1")
    files.recover(final)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["final"]


@pytest.mark.parametrize("links", [True, False])
def test_clone(links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not links:
        monkeypatch.setattr(os, "link", lambda *a: (_ for _ in ()).throw(OSError()))
    source = folder(tmp_path / "source", x="1")
    files.clone(source, tmp_path / "target")
    assert (tmp_path / "target" / "x").read_text() == "1"
    assert (source / "x").samefile(tmp_path / "target" / "x") is links


def test_digest_of_a_folder_sees_names_and_content(tmp_path: Path) -> None:
    a, b, c = folder(tmp_path / "a", x="1"), folder(tmp_path / "b", x="2"), folder(tmp_path / "c", y="1")
    d = folder(tmp_path / "d", x="1")
    assert len({files.digest(p) for p in (a, b, c)}) == 3
    assert files.digest(a) == files.digest(d)
    assert files.size(a) == 1
