"""What a training run reads when: order, augmentation and the place to go on from.

All of it is a function of (seed, epoch, place in the epoch), so that a run that was killed, or goes
on with another number of workers, sees what it would have seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.utils.data import Dataset, Sampler

from defsr.running.shards import Images
from defsr.utils.seeding import derive_seed, seed_generators

Key = tuple[int, int]


class EpochSampler(Sampler[Key]):
    """One process's share of an epoch, as keys ``(epoch, number)`` for ``SeededItems``.

    In place of BasicSR's ``EnlargedSampler``, whose order depends on the number of processes. Here
    batch b of W processes with B items each is batch b of one process with W*B items.

    Args:
        num_images: of the data set.
        ratio: ``dataset_enlarge_ratio``, passes over the data in an epoch, > 0.
        seed: the run's.
        rank, world_size: this process and how many there are.
        shuffle: False keeps the data set's order.
    """

    def __init__(
        self,
        num_images: int,
        *,
        ratio: float = 1,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
    ) -> None:
        self.num_keys = math.ceil(num_images * ratio)
        self.seed = seed
        self.rank, self.world_size = rank, world_size
        self.shuffle = shuffle
        self.epoch = 0
        self._skipped: tuple[int, int] = (0, 0)

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next iteration over the sampler gives."""
        self.epoch = epoch

    def start_at(self, epoch: int, num_done: int) -> None:
        """Leave out the first ``num_done`` items (of all processes together) of one epoch."""
        self._skipped = (epoch, num_done)

    def __len__(self) -> int:
        """Items of this process in a whole epoch."""
        return math.ceil(self.num_keys / self.world_size)

    def __iter__(self) -> Iterator[Key]:
        order = list(range(self.num_keys))
        if self.shuffle:
            generator = torch.Generator().manual_seed(derive_seed('order', self.seed, self.epoch))
            order = torch.randperm(self.num_keys, generator=generator).tolist()
        order += (order * self.world_size)[: -self.num_keys % self.world_size]
        epoch, num_done = self._skipped
        if epoch == self.epoch:
            order = order[num_done:]
            order = order[: len(order) - len(order) % self.world_size]
        return ((self.epoch, number) for number in order[self.rank :: self.world_size])


class SeededItems(Dataset):
    """A data set whose random choices depend on the key alone, not on the worker that reads it.

    Before an item is read the global generators of Python, NumPy and PyTorch are seeded from
    (seed, epoch, number), so that BasicSR's data sets are reproducible too. With an enlarged
    epoch an image comes several times, each time with other choices.
    """

    def __init__(self, dataset: Images, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> dict:
        epoch, number = key
        seed_generators('item', self.seed, epoch, number)
        return self.dataset[number % len(self.dataset)]


@dataclass
class EpochClock:
    """Where in the data an iteration is.

    Attributes:
        iters_per_epoch: of the loader, >= 1.
        batch_size: images per iteration, of all processes together.
        first_epoch: the epoch in which this process started.
        first_iter: iterations that were done when that epoch began. Not a whole number of epochs
            if an earlier part of the run had another batch size.
    """

    iters_per_epoch: int
    batch_size: int
    first_epoch: int = 0
    first_iter: int = 0

    def epoch_of(self, current_iter: int) -> int:
        """The epoch that iteration ``current_iter`` (1, 2, ...) belongs to."""
        return self.first_epoch + (current_iter - 1 - self.first_iter) // self.iters_per_epoch

    def images_done(self, epoch: int, current_iter: int) -> int:
        """Images of ``epoch`` that have been used after ``current_iter`` iterations."""
        begin = self.first_iter + (epoch - self.first_epoch) * self.iters_per_epoch
        return (current_iter - begin) * self.batch_size

    def go_on(self, epoch: int, current_iter: int, images_done: int) -> int:
        """Set the clock to a place in an epoch; with another batch size, to the last whole batch.

        Returns:
            Images of that epoch to leave out.
        """
        done = min(images_done // self.batch_size, self.iters_per_epoch)
        self.first_epoch, self.first_iter = epoch, current_iter - done
        return done * self.batch_size

    def num_epochs(self, total_iter: int) -> int:
        """How many epochs it takes, from 0, to have done ``total_iter`` iterations."""
        return self.first_epoch + math.ceil((total_iter - self.first_iter) / self.iters_per_epoch)
