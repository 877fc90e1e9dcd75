from __future__ import annotations

import logging

import pytest
import torch

from defsr.running import loaders
from defsr.running.loaders import build_loaders

LOGGER = logging.getLogger('silent')


class Images(torch.utils.data.Dataset):
    def __init__(self, opt):
        self.opt = opt

    def __len__(self):
        return self.opt['images']

    def __getitem__(self, i):
        return i


@pytest.fixture(autouse=True)
def _images(monkeypatch):
    monkeypatch.setattr(loaders, 'build_dataset', Images)


def options(images, batch, enlarge=1, world_size=1, rank=0):
    """What the loaders need: one training set, two validation sets."""
    train = {'phase': 'train', 'num_worker_per_gpu': 0, 'batch_size_per_gpu': batch}
    train |= {'images': images, 'dataset_enlarge_ratio': enlarge, 'name': 'train'}
    val = {'phase': 'val', 'images': 3}
    datasets = {'train': train, 'val_1': val | {'name': 'a'}, 'val_2': val | {'name': 'b'}}
    run = {'num_gpu': 0, 'dist': world_size > 1, 'manual_seed': 0}
    return {'datasets': datasets, 'world_size': world_size, 'rank': rank} | run


@pytest.mark.parametrize(
    ('images', 'batch', 'enlarge', 'per_epoch', 'per_pass'),
    [(10, 9, 1, 1, 2), (10, 9, 20, 22, 2), (20, 4, 3, 15, 5)],
)
def test_every_iteration_is_run(images, batch, enlarge, per_epoch, per_pass):
    """BasicSR alone stops ten images at batch 9 after 101 of 200 iterations."""
    built = build_loaders(options(images, batch, enlarge), LOGGER)
    assert len(built.train) == built.clock.iters_per_epoch == per_epoch
    assert built.clock.num_epochs(200) * per_epoch >= 200
    assert built.iters_per_pass == per_pass
    assert sum(1 for _ in built.train) == per_epoch
    assert [loader.dataset.opt['name'] for loader in built.val] == ['a', 'b']


def test_two_processes_read_the_batches_of_one():
    one = build_loaders(options(10, 4), LOGGER)
    halves = [build_loaders(options(10, 2, world_size=2, rank=rank), LOGGER) for rank in (0, 1)]
    assert one.clock == halves[0].clock == halves[1].clock
    for whole, *parts in zip(one.train, *(half.train for half in halves), strict=True):
        assert sorted(whole.tolist()) == sorted(torch.cat(parts).tolist())


def test_the_order_can_be_kept():
    opt = options(4, 2)
    opt['datasets']['train']['use_shuffle'] = False
    assert [batch.tolist() for batch in build_loaders(opt, LOGGER).train] == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda d: d['train'].update(images=5), 'has 5 images, fewer than one batch of 9'),
        (lambda d: d.pop('train'), 'has no block `train`'),
        (lambda d: d.update(vall=d.pop('val_1')), 'datasets:vall is neither'),
    ],
)
def test_mistakes(change, message):
    opt = options(20, 9)
    change(opt['datasets'])
    with pytest.raises(ValueError, match=message):
        build_loaders(opt, LOGGER)
