"""MobileViT against its paper: sizes, unfolding, and the spelling of other people's checkpoints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lvexport.models.build import build
from lvexport.models.containers import carried
from lvexport.models.errors import ModelError, SizeError, WeightsError
from lvexport.models.mobilevit import TIMM_LAYOUT, fold, unfold
from lvexport.models.registry import ENTRIES, demo


def test_unfold_groups_equal_positions_of_all_patches() -> None:
    x = torch.arange(2 * 3 * 4 * 6, dtype=torch.float32).reshape(2, 3, 4, 6)
    tokens = unfold(x)
    assert tokens.shape == (2 * 4, 6, 3)
    # Position (row 1, column 0) of every patch in image 0, patches from left to right and from top to bottom.
    expected = x[0, :, 1::2, 0::2].reshape(3, 6).T
    assert torch.equal(tokens[2], expected)


def test_fold_undoes_unfold() -> None:
    x = torch.rand(2, 5, 8, 4)
    assert torch.equal(fold(unfold(x), 2, 8, 4), x)


@pytest.mark.parametrize("imgsz", [64, 224, 256])
def test_any_multiple_of_the_stride_is_taken(imgsz: int) -> None:
    model = build("mobilevit_xxs", weights="random", imgsz=imgsz)
    assert model(torch.rand(2, 3, imgsz, imgsz)).shape == (2, 1000)


@pytest.mark.parametrize("imgsz", [-32, 0, 16, 100, 255])
def test_other_sizes_are_refused_with_the_nearest(imgsz: int) -> None:
    with pytest.raises(SizeError, match="multiple of 32"):
        build("mobilevit_xxs", weights="random", imgsz=imgsz)


def test_the_network_looks_at_the_whole_picture() -> None:
    """Attention ties far corners together: a change in one corner reaches the features of the opposite one."""
    model = build("mobilevit_xxs", weights="random")
    picture = torch.rand(1, 3, 256, 256, requires_grad=True)
    features = model.stages(model.stem(picture))
    features[0, :, -1, -1].sum().backward()
    assert picture.grad is not None
    assert picture.grad[0, :, :8, :8].abs().max() > 0


def in_timm_spelling(model: nn.Module) -> dict[str, Tensor]:
    """Our state under timm's names, by inverting its documented block structure."""
    spelling = {
        ".norm.": ".bn.",
        ".expand.": ".conv1_1x1.",
        ".depthwise.": ".conv2_kxk.",
        ".project.": ".conv3_1x1.",
        ".local.": ".conv_kxk.",
        ".widen.": ".conv_1x1.",
        ".narrow.": ".conv_proj.",
        ".fuse.": ".conv_fusion.",
        ".attention.": ".attn.",
        ".mlp.0.": ".mlp.fc1.",
        ".mlp.2.": ".mlp.fc2.",
    }
    renamed = {}
    for key, value in model.state_dict().items():
        name = re.sub(r"^head\.", "final_conv.", key)
        name = re.sub(r"^classifier\.", "head.fc.", name)
        for ours, theirs in spelling.items():
            name = name.replace(ours, theirs)
        # The norm behind a stage's transformer is timm's LayerNorm, which keeps its name.
        name = re.sub(r"^(stages\.\d\.1)\.bn\.", r"\1.norm.", name)
        renamed[name] = value
    return renamed


# Names as they stand in timm's published mobilevit_xxs.cvnets_in1k, one of each kind.
TIMM_KEYS = {
    "stem.conv.weight",
    "stem.bn.running_mean",
    "stages.0.0.conv1_1x1.conv.weight",
    "stages.1.0.conv2_kxk.bn.bias",
    "stages.1.2.conv3_1x1.bn.running_var",
    "stages.2.1.conv_kxk.conv.weight",
    "stages.2.1.conv_1x1.weight",
    "stages.2.1.transformer.0.norm1.weight",
    "stages.2.1.transformer.1.attn.qkv.bias",
    "stages.3.1.transformer.3.attn.proj.weight",
    "stages.4.1.transformer.2.mlp.fc1.weight",
    "stages.4.1.transformer.2.mlp.fc2.bias",
    "stages.4.1.norm.weight",
    "stages.4.1.conv_proj.bn.weight",
    "stages.4.1.conv_fusion.conv.weight",
    "final_conv.bn.running_mean",
    "head.fc.weight",
}


def moved(model: nn.Module) -> nn.Module:
    """The model with every number off its default, so that one that is not loaded shows."""
    generator = torch.Generator().manual_seed(1)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.add_(0.1 * torch.rand(value.shape, generator=generator))
    return model


@pytest.mark.parametrize("container", ["safetensors", "pth", "wrapped", "ema", "parallel", "half"])
def test_timm_checkpoints_load_whatever_holds_them(container: str, tmp_path: Path) -> None:
    original = moved(build("mobilevit_xxs", weights="random"))
    state = in_timm_spelling(original)
    assert set(state) >= TIMM_KEYS
    path = tmp_path / ("w.safetensors" if container in ("safetensors", "half") else "w.pth")
    if container == "half":
        save_file({k: v.half() if v.is_floating_point() else v for k, v in state.items()}, path)
    elif container == "safetensors":
        save_file(state, path)
    elif container == "wrapped":
        torch.save({"state_dict": state, "epoch": 3}, path)
    elif container == "ema":
        torch.save({"state_dict": {k: v * 0 for k, v in state.items()}, "state_dict_ema": state}, path)
    elif container == "parallel":
        torch.save({"model": {f"module.{k}": v for k, v in state.items()}}, path)
    else:
        torch.save(state, path)
    x = torch.rand(2, 3, 64, 64)
    loaded, expected = build("mobilevit_xxs", weights=path)(x), original(x)
    error = (loaded - expected).norm() / expected.norm()
    assert error < (1e-2 if container == "half" else 1e-6)


def test_own_layout_loads(tmp_path: Path) -> None:
    original = moved(build("mobilevit_xs", weights="random", num_classes=7))
    save_file(original.state_dict(), tmp_path / "w.safetensors")
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(build("mobilevit_xs", weights=tmp_path / "w.safetensors", num_classes=7)(x), original(x))


def test_rules_touch_no_name_twice() -> None:
    """A rule whose result another rule renames again would make the order a trap."""
    assert len({pattern for pattern, _ in TIMM_LAYOUT}) == len(TIMM_LAYOUT)


def test_another_variant_is_refused_naming_layout_and_keys(tmp_path: Path) -> None:
    save_file(in_timm_spelling(build("mobilevit_xs", weights="random")), tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"closest layout, timm, .*wrong shape") as caught:
        build("mobilevit_xxs", weights=tmp_path / "w.safetensors")
    assert "Nothing was loaded" in str(caught.value)


def test_another_number_of_classes_points_to_the_option(tmp_path: Path) -> None:
    save_file(build("mobilevit_xxs", weights="random", num_classes=5).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="--num-classes"):
        build("mobilevit_xxs", weights=tmp_path / "w.safetensors")


class Payload:
    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("this must never be printed",))


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": Payload()}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="refused"):
        build("mobilevit_xxs", weights=tmp_path / "w.pth")
    assert "never" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 100, b"PK\x03\x04rubbish", b"\x80\x04rubbish"])
def test_files_that_are_no_checkpoints_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(WeightsError):
        build("mobilevit_xxs", weights=tmp_path / "w.pth")


def test_a_checkpoint_cut_short_is_refused(tmp_path: Path) -> None:
    for name in ("w.safetensors", "w.pth"):
        path = tmp_path / name
        state = build("mobilevit_xxs", weights="random").state_dict()
        save_file(state, path) if name.endswith("safetensors") else torch.save(state, path)
        path.write_bytes(path.read_bytes()[:-5000])
        with pytest.raises(WeightsError):
            build("mobilevit_xxs", weights=path)


def test_nothing_is_random_unless_asked_for() -> None:
    with pytest.raises(WeightsError, match="--weights random"):
        build("mobilevit_s")


def test_random_weights_are_the_same_every_time() -> None:
    a, b = (build("mobilevit_xxs", weights="random").state_dict() for _ in range(2))
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ModelError, match="mobilevit_xxs"):
        build("mobilevit_xxl")


@pytest.mark.parametrize("name", [name for name in ENTRIES if demo(name)])
def test_demo_weights_say_what_their_card_says(name: str) -> None:
    shipped = demo(name)
    assert shipped is not None
    found = carried(shipped.weights)
    assert found.model == name == shipped.card["model"]
    assert list(found.classes) == shipped.card["classes"]
    assert len(found.classes) == 10
    schedule = shipped.card["schedule"]
    assert isinstance(schedule, dict)
    assert found.imgsz == schedule["imgsz"]
    if name == "mobilevit_xxs":
        assert len(schedule["sizes"]) > 1, "it is to show the multi-scale sampler"


@pytest.mark.parametrize("name", ["mobilevit_xxs", "mobilevit_s"])
def test_random_weights_keep_activations_within_half_precision(name: str) -> None:
    """Smallest normal half: 6.1e-5. Measured at the places where an unsettled network has almost nothing left."""
    model = build(name, weights="random")
    x = torch.rand(2, 3, 8, 8)
    x = torch.nn.functional.interpolate(x, size=(128, 128), mode="bilinear")
    for stage in (model.stem, *model.stages):
        x = stage(x)
        assert 1e-2 < x.std() < 1e2
