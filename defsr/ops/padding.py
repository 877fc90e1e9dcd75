"""Images of any size for networks that want multiples."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


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
    return _reflected(x, [math.ceil(side / multiple) * multiple for side in x.shape[-2:]])


def pad_edge(x: Tensor, multiple: int) -> Tensor:
    """As ``pad_reflect``, the edge repeated: for an image that a denoiser cleans once.

    With FFDNet that leaves less error there than a reflection does.

    Args:
        x: (N, C, H, W).
        multiple: both sides of the result are multiples of it, >= 1.
    """
    height, width = x.shape[-2:]
    return F.pad(x, (0, -width % multiple, 0, -height % multiple), mode='replicate')


def pad_to(x: Tensor, side: int) -> Tensor:
    """As ``pad_reflect``, where a side of (..., H, W) is below ``side``; else x itself."""
    sides = [max(length, side) for length in x.shape[-2:]]
    return x if sides == [*x.shape[-2:]] else _reflected(x, sides)


def _reflected(x: Tensor, sides: Sequence[int]) -> Tensor:
    for dim, target in zip((-2, -1), sides, strict=True):
        places = reflect_index(torch.arange(target, device=x.device), x.shape[dim])
        x = x.index_select(dim, places)
    return x
