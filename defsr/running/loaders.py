"""The loaders of a training or test run, from the ``datasets`` block."""

from __future__ import annotations

import atexit
import logging
import math
import multiprocessing
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from basicsr.data import build_dataloader, build_dataset
from torch.utils.data import DataLoader

from defsr.running.epochs import EpochClock, EpochSampler, SeededItems
from defsr.utils.stopping import STOPPING


@dataclass
class Loaders:
    """What BasicSR's loop works with.

    Attributes:
        train: batches of an epoch. ``sampler`` is the one behind it.
        val: one loader per validation set, batch 1, in the option file's order.
        clock: where in the data an iteration is.
        iters_per_pass: iterations in one un-enlarged pass over the training data.
    """

    train: DataLoader
    sampler: EpochSampler
    val: list[DataLoader]
    clock: EpochClock
    iters_per_pass: int


def build_loaders(opt: Mapping[str, Any], logger: logging.Logger) -> Loaders:
    """Build the loaders of a training run.

    basicsr 1.4.2 rounds iterations per epoch up while its loader drops the last batch: ten pairs
    at batch 9 and ``total_iter: 200`` stop after 101 iterations. Here they are counted.

    Args:
        opt: the parsed option file.
        logger: told how long an epoch is.

    Raises:
        ValueError: for a phase that is neither train nor val, without training data, and if an
            epoch has less than one batch.
    """
    train: tuple[DataLoader, EpochSampler, int] | None = None
    val = []
    for phase, block in opt['datasets'].items():
        kind = phase.split('_')[0]
        if kind == 'train':
            train = _train_loader(opt, block)
            if block.get('prefetch_mode') == 'cpu' and not block.get('num_worker_per_gpu'):
                logger.warning(
                    f'datasets:{phase}: prefetch_mode cpu without workers reads with the random '
                    'generators of training: resuming is not exact. Set num_worker_per_gpu.'
                )
            logger.info(f'{block["name"]}: {train[2]} training images')
        elif kind == 'val':
            dataset = build_dataset(block)
            val.append(build_dataloader(dataset, block, opt['num_gpu'], seed=opt['manual_seed']))
            logger.info(f'{block["name"]}: {len(dataset)} validation images')
        else:
            raise ValueError(f'datasets:{phase} is neither `train` nor `val_...`. Rename it.')
    if train is None:
        raise ValueError('datasets has no block `train`.')
    loader, sampler, number = train
    batch_size = (loader.batch_size or 1) * opt['world_size']
    if len(loader) == 0:
        raise ValueError(
            f'datasets:train has {number} images, fewer than one batch of '
            f'{batch_size}. Lower batch_size_per_gpu or raise dataset_enlarge_ratio.'
        )
    clock = EpochClock(len(loader), batch_size)
    return Loaders(loader, sampler, val, clock, math.ceil(number / batch_size))


def _train_loader(
    opt: Mapping[str, Any], block: Mapping[str, Any]
) -> tuple[DataLoader, EpochSampler, int]:
    """The loader, what is behind it, and the number of images."""
    seed = opt['manual_seed']
    items = SeededItems(build_dataset(block), seed)
    sampler = EpochSampler(
        len(items),
        ratio=block.get('dataset_enlarge_ratio', 1),
        seed=seed,
        rank=opt['rank'],
        world_size=opt['world_size'],
        shuffle=block.get('use_shuffle', True),
    )
    loader = build_dataloader(items, block, opt['num_gpu'], opt['dist'], sampler, seed)
    loader.worker_init_fn = _leave_signals_to_the_main_process
    if loader.num_workers:
        atexit.register(_end_workers)
    return loader, sampler, len(items)


def _leave_signals_to_the_main_process(worker: int) -> None:
    """A signal to the whole group must not end the workers while the run still needs them.

    In place of BasicSR's seeding of workers, which ``SeededItems`` makes needless.
    """
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)


def _end_workers() -> None:
    """At exit: Python would send the workers a SIGTERM and wait for ever.

    They only read. PyTorch's watch over them would take their end for a mishap.
    """
    children = multiprocessing.active_children()
    if children and hasattr(signal, 'SIGCHLD'):  # not on Windows
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in children:
        child.kill()
