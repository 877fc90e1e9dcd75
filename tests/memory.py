"""Counting the bytes of tensors, exactly and on any machine, and those of a piece of work."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from processes import outcome_in_fork
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from defsr.utils.memory import forget_peak, resident

MMAP_THRESHOLD = -3, 128 * 1024  # M_MMAP_THRESHOLD of malloc.h, where glibc starts: it is raised


class TensorBytes(TorchDispatchMode):
    """Bytes of the tensors made while it is active and still alive.

    Work space inside an operator is not seen; ``tests/benchmarks/enhance_scale.py`` measures the
    memory of whole processes.

    Attributes:
        alive: bytes now.
        peak: the most there were at a time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        known = {id(storage) for storage in _storages((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            if id(storage) not in known:
                known.add(id(storage))
                self.alive += storage.nbytes()
                weakref.finalize(storage, self._freed, storage.nbytes())
        self.peak = max(self.peak, self.alive)
        return result

    def _freed(self, number: int) -> None:
        self.alive -= number


def _storages(tree: object) -> list:
    return [x.untyped_storage() for x in tree_leaves(tree) if isinstance(x, Tensor)]


def peak_of(work: Callable[[], object]) -> tuple[str, int]:
    """What ``work`` returns or raises, as text, and the bytes that it added to a forked process.

    In a thread, whose blocks do not come out of the holes that earlier tests left in the heap: what
    is freed there stays with the process, so that they would decide the result.
    """

    def measured() -> tuple[str, int]:
        ctypes.CDLL('libc.so.6').mallopt(*MMAP_THRESHOLD)
        forget_peak()
        before = resident('VmHWM')
        try:
            told = str(work())
        except ValueError as error:
            told = f'ValueError: {error}'
        return told, resident('VmHWM') - before

    def in_thread() -> tuple[str, int]:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(measured).result()

    return outcome_in_fork(in_thread)
