"""Pieces of work side by side on a CPU, each on one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

Map = Callable[..., Iterable[Any]]


@contextmanager
def one_thread_each(device: torch.device) -> Iterator[Map]:
    """A ``map`` that works on as many items at a time as PyTorch has threads on a CPU.

    Each item has one thread. Its operations do not wait for one another, as threads that share an
    operation do at its end, and have the same result for any number of threads. Elsewhere, and
    with one thread, it is the builtin ``map``. A thread has autograd switched on: work that wants
    none says so itself.

    Yields:
        ``map(work, *items)``; results come in the order of the items.
    """
    number = torch.get_num_threads()
    if device.type != 'cpu' or number == 1:
        yield map
        return
    pool = ThreadPoolExecutor(number, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(number)  # the last call counts for threads that are yet to start
