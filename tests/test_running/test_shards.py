from __future__ import annotations

import signal

import pytest
import torch
from processes import in_processes
from torch.utils.data import DataLoader, Dataset

from defsr.running.shards import (
    Shard,
    ShardLoader,
    StopValidationError,
    gather_means,
    gather_rows,
)
from defsr.utils.stopping import StopRequest


class Numbers(Dataset):
    def __init__(self, number):
        self.number, self.opt = number, {'name': 'numbers'}

    def __len__(self):
        return self.number

    def __getitem__(self, index):
        return {'value': float(index)}


def loader_of(number, rank, world_size, stop=None):
    return ShardLoader(DataLoader(Numbers(number)), rank, world_size, stop)


@pytest.mark.parametrize('number', [1, 2, 5])
def test_rows_and_means_of_three_processes(tmp_path, number):
    """Also with fewer images than processes."""

    def work(rank):
        loader = loader_of(number, rank, 3)
        rows = [data['value'].item() for data in loader]
        means = {'psnr': sum(rows) / len(rows)}
        return gather_rows(rows, loader.dataset), gather_means(means, loader.dataset), len(loader)

    results = in_processes(3, work, tmp_path)
    for rows, means, length in results:
        assert rows == [float(i) for i in range(number)]
        assert means['psnr'] == pytest.approx((number - 1) / 2)
        assert length in (number // 3, number // 3 + 1) or length == 1


def test_alone_a_shard_is_the_whole_set():
    loader = loader_of(3, 0, 1)
    rows = [data['value'].item() for data in loader]
    assert gather_rows(rows, loader.dataset) == rows == [0, 1, 2]
    assert gather_rows(rows, Numbers(3)) == rows
    assert gather_means({'x': 2.0}, Numbers(3)) == {'x': 2.0}
    assert loader.dataset.opt['name'] == 'numbers'


def test_a_wish_to_stop_is_shared(tmp_path):
    def work(rank):
        stop = StopRequest()
        for data in loader_of(8, rank, 2, stop):
            if rank == 1 and data['value'].item() == 3:
                stop.signal = signal.SIGTERM

    results = in_processes(2, work, tmp_path)
    assert all(isinstance(result, StopValidationError) for result in results)


def test_stops_before_the_next_image():
    stop, seen = StopRequest(), []
    with pytest.raises(StopValidationError):
        for data in loader_of(8, 0, 1, stop):
            seen.append(data['value'].item())
            if len(seen) == 2:
                stop.signal = signal.SIGINT
    assert seen == [0, 1]


def test_a_shard_knows_what_counts():
    weights = [Shard(Numbers(5), rank, 4).weight for rank in range(4)]
    assert weights == [2, 1, 1, 1]
    assert Shard(Numbers(1), 3, 4).weight == 0
    assert torch.is_tensor(next(iter(loader_of(1, 3, 4)))['value'])
