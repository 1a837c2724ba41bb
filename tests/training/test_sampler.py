"""The multi-scale sampler: sizes of its batches, what is in them, and that all of it can be repeated."""

from __future__ import annotations

import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from lvexport.training.data import AtSize
from lvexport.training.sampler import MultiScaleBatchSampler, Pick, deal

SIZES = st.lists(st.tuples(st.integers(1, 400), st.integers(1, 400)), min_size=1, max_size=5)


@given(
    samples=st.integers(8, 400),
    sizes=SIZES,
    batch=st.integers(1, 40),
    seed=st.integers(0, 2**32),
    epoch=st.integers(0, 50),
    workers=st.integers(1, 8),
)
def test_batches_have_the_papers_sizes_and_share_out_every_sample_once(
    samples: int, sizes: list[tuple[int, int]], batch: int, seed: int, epoch: int, workers: int
) -> None:
    largest = max(rows * columns for rows, columns in sizes)
    seen: list[int] = []
    lengths = set()
    for rank in range(workers):
        sampler = MultiScaleBatchSampler(samples, sizes, batch, seed=seed, rank=rank, workers=workers)
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        lengths.add(len(batches))
        for number, picks in enumerate(batches):
            (size,) = {pick.size for pick in picks}  # type: ignore[attr-defined]
            assert size in sizes
            full = max(1, largest * batch // (size[0] * size[1]))
            assert 1 <= len(picks) <= full + 1
            assert len(picks) == full or number == len(batches) - 1
        seen += [int(pick) for picks in batches for pick in picks]
    assert len(lengths) == 1
    assert sorted(seen) == list(range(samples))


def test_resolutions_are_drawn_alike_and_by_each_worker_for_itself() -> None:
    samplers = [MultiScaleBatchSampler(60_000, (160, 192, 256, 288, 320), 8, rank=r, workers=2) for r in range(2)]
    drawn = [[picks[0].size[0] for picks in sampler] for sampler in samplers]  # type: ignore[attr-defined]
    assert set(drawn[0]) == {160, 192, 256, 288, 320}
    counts = [drawn[0].count(size) for size in (160, 192, 256, 288, 320)]
    assert max(counts) < 1.5 * min(counts)
    assert sum(a != b for a, b in zip(*drawn, strict=True)) > len(drawn[0]) / 2


def test_an_epoch_follows_from_its_number_and_the_seed() -> None:
    def epoch(seed: int, number: int) -> list[list[int]]:
        sampler = MultiScaleBatchSampler(500, (32, 64), 4, seed=seed)
        sampler.set_epoch(number)
        return list(sampler)

    assert epoch(1, 3) == epoch(1, 3)
    assert epoch(1, 3) != epoch(1, 4)
    assert epoch(1, 3) != epoch(2, 3)


def test_an_epoch_can_be_entered_in_the_middle() -> None:
    sampler = MultiScaleBatchSampler(500, (32, 64), 4)
    sampler.set_epoch(2)
    whole = list(sampler)
    sampler.set_epoch(2, start=5)
    assert len(sampler) == len(whole) - 5
    assert list(sampler) == whole[5:]


def test_shares_weigh_the_workers_samples() -> None:
    samplers = [MultiScaleBatchSampler(300, (32, 64, 96), 2, rank=r, workers=3) for r in range(3)]
    for iteration, plan in enumerate(samplers[0].iterations):
        shares = [sampler.share(iteration) for sampler in samplers]
        assert sum(shares) == pytest.approx(3)
        assert shares[0] / shares[1] == pytest.approx(plan.counts[0] / plan.counts[1])


@pytest.mark.parametrize("arguments", [(0, (32,), 1), (10, (), 1), (10, (0,), 1), (10, (32,), 0)])
def test_what_makes_no_sense_is_refused(arguments: tuple[int, tuple[int, ...], int]) -> None:
    with pytest.raises(ValueError, match=r"sampler|samples"):
        MultiScaleBatchSampler(*arguments)


def test_dealing_is_even() -> None:
    assert deal(5, (1, 4, 4)) == (1, 2, 2)
    assert deal(9, (1, 4, 4)) == (1, 4, 4)


def test_a_pick_is_an_index_that_survives_the_way_to_another_process() -> None:
    pick = pickle.loads(pickle.dumps(Pick(7, (32, 64), 3)))
    assert (pick, pick.size, pick.epoch) == (7, (32, 64), 3)
    assert "abcdefgh"[pick] == "h"


@pytest.mark.parametrize("processes", [0, 2])
def test_any_data_set_can_be_read_with_it(processes: int) -> None:
    pictures = [(torch.full((3, 20, 20), float(i)), i) for i in range(40)]
    sampler = MultiScaleBatchSampler(len(pictures), (16, 32), 4)
    seen = []
    for images, labels in DataLoader(AtSize(pictures), batch_sampler=sampler, num_workers=processes):
        assert images.shape[1:] in ((3, 16, 16), (3, 32, 32))
        assert torch.allclose(images.mean(dim=(1, 2, 3)), labels.float(), rtol=1e-5)
        seen += labels.tolist()
    assert sorted(seen) == list(range(40))
