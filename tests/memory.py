"""Counting the bytes of tensors, exactly and on any machine."""

from __future__ import annotations

import weakref

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


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
