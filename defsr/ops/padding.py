"""Images of any size for networks that want multiples."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def reflect_index(index: Tensor, length: int) -> Tensor:
    """Positions >= 0 beyond an axis of ``length``, folded back into it, edges not repeated."""
    period = max(2 * (length - 1), 1)
    index = index % period
    return torch.where(index < length, index, period - index)


def pad_reflect(x: Tensor, multiple: int) -> Tensor:
    """Pad bottom and right by reflection (edge not repeated) up to a multiple.

    The reflection goes back and forth where the pad is larger than the image.

    Args:
        x: (..., H, W).
        multiple: both sides of the result are multiples of it, >= 1.
    """
    for dim in (-2, -1):
        length = x.shape[dim]
        target = math.ceil(length / multiple) * multiple
        x = x.index_select(dim, reflect_index(torch.arange(target, device=x.device), length))
    return x
