"""What holds for every network in the registry: size, sizes, feature maps, capture."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import Tensor, nn

from lvexport.models.build import build
from lvexport.models.registry import ENTRIES, families

SMALLEST = sorted(families().values())
# Mean of the training set's red, green and blue, with which all but the MobileViTs were trained.
IMAGENET_MEAN = (0.485, 0.456, 0.406)


def fresh(name: str) -> nn.Module:
    """The network as its family builds it, in evaluation mode, without what :func:`build` adds."""
    network: nn.Module = importlib.import_module(ENTRIES[name].module).build(name, 1000)
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize("name", ENTRIES)
def test_parameters_are_those_published(name: str) -> None:
    with torch.device("meta"):
        network = importlib.import_module(ENTRIES[name].module).build(name, 1000)
    assert sum(p.numel() for p in network.parameters()) == ENTRIES[name].parameters


def test_a_family_is_its_smallest_member() -> None:
    assert families() == {
        "mobilevit": "mobilevit_xxs",
        "mobilevitv2": "mobilevitv2_050",
        "mobile_former": "mobile_former_26m",
        "efficientformer": "efficientformer_nano",
        "efficientformerv2": "efficientformerv2_s0",
    }


def test_every_network_says_how_its_pictures_are_prepared() -> None:
    for entry in ENTRIES.values():
        plain = entry.family in ("mobilevit", "mobilevitv2")
        assert entry.preprocessing.mean == ((0.0, 0.0, 0.0) if plain else IMAGENET_MEAN)
        assert entry.preprocessing.interpolation == ("bilinear" if entry.family == "mobile_former" else "bicubic")
        assert entry.imgsz == (256 if plain else 224)


@pytest.mark.parametrize("name", [*SMALLEST, "mobile_former_96m", "efficientformer_l3"])
def test_features_have_the_strides_and_channels_announced(name: str) -> None:
    network = fresh(name)
    maps = network.features(torch.rand(2, 3, 128, 64))
    sizes = [(2, channels, 128 // s, 64 // s) for channels, s in zip(network.channels, network.strides, strict=True)]
    assert [tuple(m.shape) for m in maps] == sizes
    assert network.strides[-1] == ENTRIES[name].stride


@pytest.mark.parametrize("name", SMALLEST)
def test_the_classifier_sees_the_last_features(name: str) -> None:
    """Turning the last map to nothing on its way out has to show in the logits."""
    network = fresh(name)
    x = torch.rand(1, 3, 64, 64)
    before = network(x)
    trunk = next(m for m in reversed(list(network.modules())) if isinstance(m, nn.BatchNorm2d))
    trunk.weight.zero_()
    assert not torch.allclose(network(x), before)


@pytest.mark.parametrize("name", SMALLEST)
@pytest.mark.parametrize("size", [(32, 32), (96, 160), (224, 224)])
def test_any_multiple_of_the_stride_is_taken(name: str, size: tuple[int, int]) -> None:
    logits = fresh(name)(torch.rand(1, 3, *size))
    assert logits.shape == (1, 1000)
    assert logits.isfinite().all()


# At 64 pixels the attention biases are stretched, at 224 they are used as they are.
@pytest.mark.parametrize(
    ("name", "imgsz"), [*((name, 224) for name in SMALLEST), ("efficientformer_l1", 64), ("efficientformerv2_s0", 64)]
)
def test_capture_computes_the_same_in_five_dimensions_at_most(name: str, imgsz: int) -> None:
    network = fresh(name)
    x = torch.rand(1, 3, imgsz, imgsz)
    program = torch.export.export(network, (x,))
    values = [node.meta["val"] for node in program.graph.nodes if isinstance(node.meta.get("val"), Tensor)]
    assert max(value.ndim for value in values) <= 5
    targets = {str(node.target) for node in program.graph.nodes}
    # Not every converter takes these: constants made in passing, and attention with its guards against empty rows.
    assert not [target for target in targets if "lift_fresh" in target or "detach" in target or "scaled_dot" in target]
    assert torch.equal(program.module()(x), network(x))


@pytest.mark.parametrize("name", SMALLEST)
def test_an_image_does_not_depend_on_its_batch(name: str) -> None:
    network = build(name, weights="random", num_classes=7)
    x = torch.rand(2, 3, 64, 64)
    assert torch.allclose(network(x)[1:], network(x[1:]), atol=1e-5)


@pytest.mark.parametrize("name", SMALLEST)
def test_training_reaches_every_parameter(name: str) -> None:
    """No parameter is dead or forgotten: each has a gradient after one step's backward pass."""
    network = importlib.import_module(ENTRIES[name].module).build(name, 10)
    network(torch.rand(2, 3, 64, 64)).square().sum().backward()
    assert [key for key, p in network.named_parameters() if p.grad is None] == []
