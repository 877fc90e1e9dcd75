"""PyTorch's optimizers by the names in option files, of which BasicSR 1.4.2 knows Adam alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.optim import Optimizer

NAMES = ('Adam', 'AdamW', 'Adamax', 'NAdam', 'RAdam', 'SGD', 'ASGD', 'RMSprop', 'Rprop')
OPTIMIZERS: dict[str, type[Optimizer]] = {name: getattr(torch.optim, name) for name in NAMES}


def build_optimizer(kind: str, params: Iterable[Any], lr: float, **options: Any) -> Optimizer:
    """Of ``OPTIMIZERS``; ``options`` are its own, ``fused`` and ``foreach`` too."""
    return OPTIMIZERS[kind](params, lr=lr, **options)  # type: ignore[call-arg]


def check_optimizer(where: str, block: Mapping[str, Any]) -> None:
    """Refuse a block whose values PyTorch does not take together.

    Args:
        where: the block's own path, as ``train:optim_g``.
        block: with ``type`` and ``lr``, each value of its kind.

    Raises:
        ValueError: in PyTorch's words.
    """
    options = {key: value for key, value in block.items() if key != 'type'}
    try:
        build_optimizer(block['type'], [torch.nn.Parameter(torch.zeros(1))], **options)
    except (ValueError, RuntimeError, TypeError) as error:
        line = ' '.join(str(error).split()).rstrip('.')
        raise ValueError(f'{where}: {block["type"]} cannot have these options: {line}.') from None
