"""Images of any size for networks that want multiples."""

from __future__ import annotations

import math

import torch
from torch import Tensor


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
        period = max(2 * (length - 1), 1)
        index = torch.arange(target, device=x.device) % period
        x = x.index_select(dim, torch.where(index < length, index, period - index))
    return x
