"""Both versions of EfficientFormer: attention biases at any size, the partition, the two heads."""

from __future__ import annotations

import pytest
import torch

from lvexport.models.build import build
from lvexport.models.efficientformer import VARIANTS, Block3D, Block4D, EfficientFormer, ToTokens
from lvexport.models.layers import AttentionBias, distances


def positions(rows: int, columns: int, step: int = 1) -> list[tuple[int, int]]:
    return [(r, c) for r in range(0, rows, step) for c in range(0, columns, step)]


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize(("rows", "columns"), [(7, 7), (3, 5), (1, 4)])
def test_a_pair_finds_its_distance(rows: int, columns: int, step: int) -> None:
    """The same order as the official code's: offsets numbered as they first come up, which is row by row."""
    numbers: dict[tuple[int, int], int] = {}
    expected = []
    for query in positions(rows, columns, step):
        for key in positions(rows, columns):
            offset = (abs(query[0] - key[0]), abs(query[1] - key[1]))
            expected.append(numbers.setdefault(offset, len(numbers)))
    assert distances(rows, columns, step).tolist() == expected


def filled(step: int = 1) -> AttentionBias:
    """A bias whose table grows by 1 a row and by 10 a column, so that stretching it can be told from outside."""
    bias = AttentionBias(1, 7, step).requires_grad_(False)
    bias.table.copy_(torch.tensor([[r + 10.0 * c for r, c in positions(7, 7)]]))
    return bias


def test_bias_is_the_table_at_the_size_it_was_learned_at() -> None:
    got = filled()(7, 7)[0]
    for i, query in enumerate(positions(7, 7)):
        for j, key in enumerate(positions(7, 7)):
            assert got[i, j] == abs(query[0] - key[0]) + 10 * abs(query[1] - key[1])


@pytest.mark.parametrize(("rows", "columns", "step"), [(13, 4, 1), (2, 2, 1), (8, 12, 2), (1, 3, 1)])
def test_bias_stretches_so_that_the_farthest_stay_the_farthest(rows: int, columns: int, step: int) -> None:
    got = filled(step)(rows, columns)[0]
    down, across = 6 / max(rows - 1, 1), 6 / max(columns - 1, 1)
    expected = [
        [down * abs(q[0] - k[0]) + 10 * across * abs(q[1] - k[1]) for k in positions(rows, columns)]
        for q in positions(rows, columns, step)
    ]
    assert torch.allclose(got, torch.tensor(expected), atol=1e-4)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_network_is_reshaped_once(name: str) -> None:
    with torch.device("meta"):
        kinds = [type(block) for stage in EfficientFormer(VARIANTS[name], 10).stages for block in stage.blocks]
    turn = kinds.index(ToTokens)
    assert set(kinds[:turn]) == {Block4D}
    assert set(kinds[turn + 1 :]) == {Block3D}
    assert len(kinds) - turn - 1 == VARIANTS[name].attention
    assert len(kinds) - 1 == sum(VARIANTS[name].depths)


@pytest.mark.parametrize("name", ["efficientformer_l1", "efficientformerv2_s0"])
def test_the_answer_is_the_mean_of_both_heads(name: str) -> None:
    network = build(name, weights="random", num_classes=10)
    x = torch.rand(1, 3, 64, 64)
    answers = []
    for silent in (network.classifier.label, network.classifier.teacher):
        kept = {key: value.clone() for key, value in silent.state_dict().items()}
        silent.weight.zero_()
        answers.append(network(x))
        silent.load_state_dict(kept)
    assert torch.allclose(answers[0] + answers[1], network(x), atol=1e-6)


@pytest.mark.parametrize("name", ["efficientformer_l1", "efficientformerv2_s0"])
def test_biases_change_the_answer_at_every_size(name: str) -> None:
    network = build(name, weights="random", num_classes=10)
    for key, value in network.state_dict().items():
        if "scale" in key:
            value.fill_(0.3)
    for imgsz in (64, 224):
        x = torch.rand(1, 3, imgsz, imgsz)
        before = network(x)
        for key, value in network.state_dict().items():
            if key.endswith("bias.table"):
                value.copy_(torch.randn(value.shape))
        assert not torch.allclose(network(x), before)
