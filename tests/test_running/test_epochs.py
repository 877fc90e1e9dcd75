from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from defsr.running.epochs import EpochClock, EpochSampler, SeededItems


class Draws(Dataset):
    """What an augmentation would draw from each global generator."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        numbers = [index, random.random(), np.random.rand(), torch.rand(()).item()]
        return torch.tensor(numbers, dtype=torch.float64)


def epoch_of(sampler, epoch):
    sampler.set_epoch(epoch)
    return list(sampler)


def test_an_epoch_has_every_item_once_in_another_order():
    sampler = EpochSampler(10, ratio=2, seed=3)
    first, second = epoch_of(sampler, 0), epoch_of(sampler, 1)
    assert len(sampler) == 20
    assert sorted(number for _, number in first) == list(range(20))
    assert {epoch for epoch, _ in second} == {1}
    assert [n for _, n in first] != [n for _, n in second]
    assert first == epoch_of(EpochSampler(10, ratio=2, seed=3), 0)
    assert first != epoch_of(EpochSampler(10, ratio=2, seed=4), 0)
    assert epoch_of(EpochSampler(3, shuffle=False), 1) == [(1, 0), (1, 1), (1, 2)]


@pytest.mark.parametrize('world_size', [1, 2, 3, 4])
@pytest.mark.parametrize('num_images', [1, 12, 13])
def test_processes_share_the_batches_of_one(world_size, num_images):
    whole = epoch_of(EpochSampler(num_images), 2)
    shares = [
        epoch_of(EpochSampler(num_images, rank=rank, world_size=world_size), 2)
        for rank in range(world_size)
    ]
    assert {len(share) for share in shares} == {-(-num_images // world_size)}
    together = [key for keys in zip(*shares, strict=True) for key in keys]
    assert together[:num_images] == whole
    assert set(together) == set(whole), 'what is added comes from the same epoch'


@pytest.mark.parametrize('world_size', [1, 2, 3])
def test_going_on_inside_an_epoch(world_size):
    def sampler(rank):
        return EpochSampler(12, rank=rank, world_size=world_size, seed=1)

    for rank in range(world_size):
        whole, rest = sampler(rank), sampler(rank)
        rest.start_at(4, 6)
        assert epoch_of(rest, 4) == epoch_of(whole, 4)[6 // world_size :]
        assert epoch_of(rest, 5) == epoch_of(whole, 5)
        assert len(rest) == 12 // world_size


def test_going_on_with_another_number_of_processes():
    shares = []
    for rank in range(2):
        sampler = EpochSampler(12, rank=rank, world_size=2)
        sampler.start_at(0, 3)
        shares.append(epoch_of(sampler, 0))
    assert [len(share) for share in shares] == [4, 4], 'no process may have a batch more'


def test_an_items_draws_do_not_depend_on_the_worker():
    def epoch(num_workers):
        sampler = EpochSampler(5, ratio=3, seed=1)
        items = SeededItems(Draws(), seed=1)
        return torch.cat(list(DataLoader(items, 2, sampler=sampler, num_workers=num_workers)))

    alone, workers = epoch(0), epoch(2)
    assert torch.equal(alone, workers)
    assert len({tuple(row) for row in alone.tolist()}) == 15, 'a repeated image varies'


@pytest.mark.parametrize('done', range(0, 40))
def test_the_clock_at_every_iteration(done):
    """Stopped after any iteration, the clock that goes on agrees with the one that never did."""
    clock = EpochClock(iters_per_epoch=7, batch_size=3)
    if done:
        epoch = clock.epoch_of(done)
        images = clock.images_done(epoch, done)
        again = EpochClock(iters_per_epoch=7, batch_size=3)
        assert again.go_on(epoch, done, images) == images == 3 * (done - 7 * epoch)
        assert 0 < images <= 21
        for later in range(done + 1, done + 20):
            assert again.epoch_of(later) == clock.epoch_of(later) == (later - 1) // 7
            assert again.images_done(again.epoch_of(later), later) == (
                clock.images_done(clock.epoch_of(later), later)
            )
        assert again.num_epochs(100) == clock.num_epochs(100) == 15


def test_the_clock_with_another_batch_size():
    clock = EpochClock(iters_per_epoch=5, batch_size=4)  # 20 images; before: batches of 3
    skipped = clock.go_on(epoch=2, current_iter=15, images_done=9)
    assert skipped == 8, 'whole batches only: one image comes again'
    assert [clock.epoch_of(i) for i in (16, 17, 18, 19)] == [2, 2, 2, 3]
    assert clock.images_done(2, 16) == 12
    assert clock.num_epochs(18) == 3 and clock.num_epochs(19) == 4
