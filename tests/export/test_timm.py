"""Models of timm. What needs the library itself is skipped where it does not load, as beside a CPU-only torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file

from lvexport import timm
from lvexport.capture import realise
from lvexport.errors import UsageError
from lvexport.models.build import build
from lvexport.models.errors import WeightsError
from lvexport.overrides import read
from lvexport.source import Source, resolve
from tests.hubs import COMMIT, Hub, serving

NAME = "mobilevit_xxs"
REPO = f"timm/{NAME}.cvnets_in1k"


@cache
def loads() -> bool:
    """Whether timm is here and loads, found out in another process since a failed import leaves much behind."""
    return subprocess.run([sys.executable, "-c", "import timm"], capture_output=True).returncode == 0


@pytest.fixture
def library() -> Any:
    if not loads():
        pytest.skip("timm does not load here")
    return timm.library()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with serving({}) as found:
        monkeypatch.setenv("HF_ENDPOINT", found.endpoint)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setenv("LVEXPORT_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("no_proxy", "*")
        yield found


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if timm were installed: what is typed is looked at before it is loaded."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'lvexport\[hub\]'"):
        resolve(f"timm:{NAME}")


def test_a_timm_that_does_not_load_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UsageError, match="torchvision that belongs to this torch"):
        timm.library()


@pytest.mark.usefixtures("named")
def test_what_was_typed_is_kept_until_the_model_is_built() -> None:
    source = resolve(f"timm:{NAME}.cvnets_in1k", "random", 5, overrides=read(std="1,1,2"))
    assert (source.kind, source.name, source.imgsz) == ("timm", "mobilevit_xxs-cvnets_in1k", 0)
    assert (source.num_classes, source.overrides.std) == (5, (1.0, 1.0, 2.0))
    assert source.digest is None


@pytest.mark.usefixtures("named")
@pytest.mark.parametrize("spec", ["timm:", "timm:../x", "timm:a b"])
def test_what_is_no_name_is_refused(spec: str) -> None:
    with pytest.raises(UsageError, match="names no model"):
        resolve(spec)


@pytest.mark.usefixtures("named")
def test_demo_weights_are_not_timms() -> None:
    with pytest.raises(WeightsError, match="registry networks only"):
        resolve(f"timm:{NAME}", "demo")


def with_random_weights(library: Any, classes: int = 1000) -> torch.nn.Module:
    """timm's own network, with statistics that keep its answers apart."""
    torch.manual_seed(1)
    model: torch.nn.Module = library.create_model(NAME, num_classes=classes)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    model.train()(torch.rand(8, 3, 64, 64))
    return model.eval()


def test_weights_from_the_hub(library: Any, server: Hub) -> None:
    """timm's model, and the registry's of the same name, from the very file that timm's repository would hold."""
    original = with_random_weights(library)
    server.files[f"{REPO}/model.safetensors"] = save({k: v.contiguous() for k, v in original.state_dict().items()})
    built = realise(resolve(f"timm:{NAME}"))
    found: Source = built.source
    assert (found.weights.kind, found.weights.repo, found.weights.revision) == ("hub", REPO, COMMIT)
    assert (found.imgsz, found.num_classes, found.layout) == (256, 1000, "timm")
    assert (found.preprocessing.interpolation, found.preprocessing.crop_pct) == ("bicubic", 0.9)
    x = torch.rand(1, 3, 256, 256)
    assert torch.equal(built.model(x), original(x))
    ours = build(NAME)
    torch.testing.assert_close(ours(x), original(x), atol=1e-4, rtol=1e-4)
    assert len(server.transfers("model.safetensors")) == 1
    assert torch.equal(realise(found).model(x), original(x))
    with pytest.raises(UsageError, match="know 1000 classes, not 7"):
        realise(resolve(f"timm:{NAME}", num_classes=7))


def test_a_checkpoint_of_ones_own(library: Any, tmp_path: Path) -> None:
    original = with_random_weights(library, 4)
    save_file({k: v.contiguous() for k, v in original.state_dict().items()}, tmp_path / "mine.safetensors")
    built = realise(resolve(f"timm:{NAME}", str(tmp_path / "mine.safetensors"), 4, 64, read(crop_pct=0.5)))
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(built.model(x), original(x))
    assert (built.source.imgsz, built.source.num_classes) == (64, 4)
    assert built.source.preprocessing.crop_pct == 0.5


def test_random_weights_are_the_same_every_time(library: Any) -> None:
    source = resolve(f"timm:{NAME}", "random", 3, 64)
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(realise(source).model(x), realise(source).model(x))


@pytest.mark.parametrize(
    ("name", "words"), [("mobilevit_xq", "Did you mean timm:mobilevit_xs"), ("mobilevit_xxs.foo", "cvnets_in1k")]
)
def test_names_that_timm_does_not_have(name: str, words: str, library: Any) -> None:
    with pytest.raises(UsageError, match=words):
        realise(resolve(f"timm:{name}", "random"))
