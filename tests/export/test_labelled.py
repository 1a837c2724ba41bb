"""Labelled pictures: every way to lay them down, and what is refused."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lvexport.errors import UsageError
from lvexport.labelled import Labelled, Picture, evenly, open_data
from lvexport.validation import sample

LABELS = ("T-shirt/top", "Trouser", "Ankle boot")


def colour(i: int) -> tuple[int, int, int]:
    return (i * 10, 255 - i * 10, i)


def save(path: Path, i: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (9, 7), colour(i)).save(path)


def folder(root: Path, names: tuple[str, ...]) -> Path:
    """Two pictures a class, png and bmp, each of a colour of its own."""
    for i, name in enumerate(names):
        save(root / name / "a.png", 2 * i)
        save(root / name / "deeper" / "b.BMP", 2 * i + 1)
    return root


def labels_of(data: Labelled) -> list[int]:
    return [picture.label for picture in data.read()]


@pytest.mark.parametrize(
    ("names", "labels", "classes", "expected"),
    [
        (("Trouser", "Ankle boot"), LABELS, 3, {"Trouser": 1, "Ankle boot": 2}),
        (("t-shirt_top", "ankle-boot"), LABELS, 3, {"t-shirt_top": 0, "ankle-boot": 2}),
        (("2", "000"), LABELS, 3, {"2": 2, "000": 0}),
        (("2", "0"), (), 3, {"2": 2, "0": 0}),
        (("7", "9"), ("9", "8", "7"), 3, {"7": 2, "9": 0}),
        (("n02", "n01", "n03"), (), 3, None),
        (("n00000002", "n00000001", "n00000010"), (), 3, {"n00000001": 0, "n00000002": 1, "n00000010": 2}),
    ],
)
def test_folders_are_labels_numbers_or_wordnet_ids(
    tmp_path: Path, names: tuple[str, ...], labels: tuple[str, ...], classes: int, expected: dict[str, int] | None
) -> None:
    root = folder(tmp_path / "pictures", names)
    if expected is None:
        with pytest.raises(UsageError, match=r"no classes of the model: 'n01'"):
            open_data(root, labels, classes)
        return
    data = open_data(root, labels, classes)
    assert data.count == 2 * len(names)
    assert data.name == "pictures"
    assert labels_of(data) == [expected[name] for name in sorted(names) for _ in range(2)]
    first = next(data.read())
    assert first.pixels.shape == (7, 9, 3)
    assert tuple(first.pixels[0, 0]) == colour(2 * names.index(min(names)))


def test_what_no_class_is_called_is_refused_naming_both(tmp_path: Path) -> None:
    root = folder(tmp_path, ("Trouser", "Hat"))
    with pytest.raises(UsageError, match=r"'Hat'.*'T-shirt/top', 'Trouser', 'Ankle boot'"):
        open_data(root, LABELS, 3)


def test_a_label_of_two_classes_is_refused(tmp_path: Path) -> None:
    root = folder(tmp_path, ("crane", "heron"))
    with pytest.raises(UsageError, match=r"'crane'.*more than one"):
        open_data(root, ("crane", "heron", "crane"), 3)


def test_a_list_of_files(tmp_path: Path) -> None:
    folder(tmp_path, ("one", "two"))
    (tmp_path / "labels.csv").write_text("file,label\none/a.png,Trouser\ntwo/a.png,2\n")
    with pytest.raises(UsageError, match=r"labels.csv has labels that are no classes of the model: '2'"):
        open_data(tmp_path, LABELS, 3)
    (tmp_path / "labels.csv").write_text("file,label\none/a.png,Trouser\ntwo/a.png,Ankle boot\n")
    assert labels_of(open_data(tmp_path, LABELS, 3)) == [1, 2]
    (tmp_path / "labels.csv").write_text("file,label\nnone.png,Trouser\n")
    with pytest.raises(UsageError, match=r"none.png cannot be read as a picture \(there is no such file"):
        open_data(tmp_path, LABELS, 3)
    (tmp_path / "labels.csv").write_text("one/a.png,Trouser\n")
    with pytest.raises(UsageError, match="columns file and label"):
        open_data(tmp_path, LABELS, 3)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("grey", [False, True])
def test_an_archive(tmp_path: Path, compressed: bool, grey: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (10, 6, 5) if grey else (10, 6, 5, 3), np.uint8)
    (np.savez_compressed if compressed else np.savez)(tmp_path / "a.npz", pixels=pixels, labels=np.arange(10) % 3)
    data = open_data(tmp_path / "a.npz", LABELS, 3, limit=4)
    found = list(data.read())
    assert data.count == len(found) == 4
    for i, picture in zip(evenly(10, 4), found, strict=True):
        assert picture.label == i % 3
        expected = np.repeat(pixels[i][..., None], 3, axis=2) if grey else pixels[i]
        np.testing.assert_array_equal(picture.pixels, expected)


def test_archives_that_are_none_are_refused(tmp_path: Path) -> None:
    pixels, path = np.zeros((3, 4, 4, 3), np.uint8), tmp_path / "a.npz"
    for arrays, words in (
        ({"pixels": pixels}, "to hold pixels and labels"),
        ({"pixels": pixels, "labels": np.arange(2)}, "3 pictures and 2 labels"),
        ({"pixels": pixels.astype(float), "labels": np.arange(3)}, "have to be uint8"),
        ({"pixels": pixels, "labels": np.arange(3) + 7}, "no classes of the model: '7'"),
    ):
        np.savez(path, **arrays)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match=words):
            open_data(path, LABELS, 3)
    path.write_bytes(b"PK no archive")
    with pytest.raises(UsageError, match="cannot be read"):
        open_data(path, LABELS, 3)


def test_pictures_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    root = folder(tmp_path, ("0", "1"))
    broken = root / "1" / "c.jpg"
    broken.write_bytes(b"no picture")
    with pytest.raises(UsageError, match=r"c\.jpg cannot be read as a picture"):
        open_data(root, LABELS, 3)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (99, 99, 3), np.uint8)).save(broken)
    broken.write_bytes(broken.read_bytes()[:3000])  # its head is sound
    data = open_data(root, LABELS, 3)
    with pytest.raises(UsageError, match=r"c\.jpg cannot be read as a picture"):
        list(data.read())


def test_nothing_to_look_at_is_refused(tmp_path: Path) -> None:
    (tmp_path / "Trouser").mkdir()
    (tmp_path / "Trouser" / "notes.txt").write_text("none")
    with pytest.raises(UsageError, match="holds no pictures"):
        open_data(tmp_path, LABELS, 3)
    with pytest.raises(UsageError, match="no labelled pictures"):
        open_data(tmp_path / "nowhere", LABELS, 3)


def test_builtin_is_for_networks_of_its_classes() -> None:
    clothing = sample.shipped(1).classes
    data = open_data("builtin", clothing, 10, limit=50)
    assert labels_of(data) == list(sample.shipped(2000).labels[evenly(2000, 50)])
    places = sample.collages(1).classes
    assert open_data("builtin", places, 8).name.startswith("collages")
    with pytest.raises(UsageError, match=r"'T-shirt/top', 'Trouser'.*'cat', 'dog'"):
        open_data("builtin", ("cat", "dog"), 2)
    with pytest.raises(UsageError, match="classes without names"):
        open_data("builtin", (), 1000)


def test_evenly() -> None:
    assert evenly(5, None) == evenly(5, 9) == [0, 1, 2, 3, 4]
    assert evenly(10, 4) == [0, 2, 5, 7]


def test_an_archive_is_not_read_into_memory(tmp_path: Path) -> None:
    pixels = np.zeros((2000, 100, 100, 3), np.uint8)  # 60 MB
    np.savez(tmp_path / "a.npz", pixels=pixels, labels=np.zeros(2000, int))
    del pixels
    tracemalloc.start()
    data = open_data(tmp_path / "a.npz", LABELS, 3)
    seen = sum(isinstance(picture, Picture) for picture in data.read())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seen == 2000
    assert peak < 8e6
