"""Random numbers as a function of where they are needed, not of what was drawn before."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2^63) that depends on all ``parts`` and on their order, the same everywhere.

    Example:
        >>> derive_seed('epoch', 0, 3) == derive_seed('epoch', 0, 3) != derive_seed('epoch', 3, 0)
        True
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, 'big') >> 1


def seed_generators(*parts: int | str) -> None:
    """Seed the global generators of Python, NumPy and PyTorch (CUDA's if in use) from ``parts``.

    ``torch.manual_seed`` is not used: without CUDA it records a stack trace with every call.
    """
    seed = derive_seed(*parts)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
