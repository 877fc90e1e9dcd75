"""Inside other people's scripts: their settings do not reach in, and are left as they are."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch

_BUILDING = threading.RLock()  # generator and default dtype belong to the whole process


@contextmanager
def as_if_alone() -> Iterator[None]:
    """To build networks in: PyTorch's own defaults, and what is drawn is not the caller's.

    One thread at a time. Other threads that draw from PyTorch's generator meanwhile, a fraction of
    a second, may draw the same numbers again afterwards.
    """
    with (
        _BUILDING,
        torch.random.fork_rng(devices=[]),
        torch.inference_mode(False),
        torch.device('cpu'),
    ):
        dtype = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """To run networks in: no gradients, no autocast, no default device, no NumPy errors.

    All of these belong to the thread.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.autocast(device.type, enabled=False))
        stack.enter_context(np.errstate(all='ignore'))
        if torch.get_default_device().type != 'cpu':
            stack.enter_context(torch.device('cpu'))
        yield
