"""A validation set divided among processes, and its results put in order again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from torch.utils.data import DataLoader, Dataset

from defsr.utils import distributed
from defsr.utils.stopping import StopRequest

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

Board: TypeAlias = 'SummaryWriter | None'
Row = TypeVar('Row')


class Images(Protocol):
    """A data set of images, as BasicSR builds it."""

    opt: Mapping[str, Any]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> dict: ...


class StopValidationError(Exception):
    """A process was asked to stop, so the validation ends in all of them."""


class Shard(Dataset):
    """Every ``world_size``-th image from ``rank`` on, under the options of the whole set.

    With fewer images than processes the last ones get a copy of the first, so that each has
    something to run; ``gather_rows`` and ``weight`` leave it out.

    Attributes:
        opt: the data set's block.
        num_images: of the whole set.
        weight: images of this shard that count.
    """

    def __init__(self, dataset: Images, rank: int, world_size: int) -> None:
        self.dataset = dataset
        self.opt = dataset.opt
        self.num_images = len(dataset)
        own = range(rank, self.num_images, world_size)
        self.weight = len(own)
        self.numbers = own or range(1)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> dict:
        return self.dataset[self.numbers[index]]


class ShardLoader:
    """One image after the other of this process's shard; stops in all processes or in none."""

    def __init__(
        self, loader: DataLoader, rank: int, world_size: int, stop: StopRequest | None = None
    ) -> None:
        whole: Any = loader.dataset
        self.dataset = Shard(whole, rank, world_size)
        self.stop = stop or StopRequest()
        self._loader = DataLoader(self.dataset, batch_size=1, pin_memory=loader.pin_memory)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[dict]:
        """Collective at the end. Raises StopValidationError if any process was asked to stop."""
        for data in self._loader:
            if self.stop.signal:
                break
            yield data
        if any(distributed.any_of([self.stop.signal is not None])):
            raise StopValidationError


def gather_rows(rows: Sequence[Row], dataset: Images) -> list[Row]:
    """The shards' rows (one per image) of all processes, in the data set's order; collective.

    Args:
        rows: of the images of ``dataset``, in order.
        dataset: a ``Shard``; with any other the rows are complete already.
    """
    if not isinstance(dataset, Shard):
        return list(rows)
    shards = distributed.gather(list(rows))
    world_size = len(shards)
    return [shards[i % world_size][i // world_size] for i in range(dataset.num_images)]


def gather_means(means: dict[str, float], dataset: Images) -> dict[str, float]:
    """Means over shards -> means over the whole set; collective."""
    weight = dataset.weight if isinstance(dataset, Shard) else len(dataset)
    parts = distributed.gather((weight, means))
    total = sum(part_weight for part_weight, _ in parts)
    return {key: sum(w * part[key] for w, part in parts) / total for key in means}
