"""Operations that stay in float32 where all around them is under autocast."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec('P')
T = TypeVar('T')


def in_float32(operation: Callable[P, T]) -> Callable[P, T]:
    """An operation whose autocast tensors become float32 first: places and near ties need them."""

    @wraps(operation)
    def run(*args: P.args, **options: P.kwargs) -> T:
        tensors = [x for x in (*args, *options.values()) if isinstance(x, Tensor)]
        device = tensors[0].device.type
        if not torch.is_autocast_enabled(device):
            return operation(*args, **options)
        with torch.autocast(device, enabled=False):
            return operation(*map(_full, args), **{k: _full(x) for k, x in options.items()})  # type: ignore[arg-type]

    return run


def _full(x: object) -> object:
    return x.float() if isinstance(x, Tensor) and x.is_floating_point() else x
