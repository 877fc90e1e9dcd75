"""Matches of patches that lie inside their maps, carried on to the border."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from defsr.ops.matching_inside import match_patches_inside


def match_patches_carried(
    query: Tensor, key: Tensor, patch_size: int = 3, **more: Any
) -> tuple[Tensor, Tensor]:
    """As ``match_patches_inside``, with a match for every position (SRNTT's search).

    A position too near to the border to be the centre of a patch goes with the nearest that is
    one: same displacement, same confidence. A query smaller than a patch is continued by its edge.

    Args:
        query, key, patch_size, more: as of ``match_patches_inside``.

    Returns:
        index: (N, h, w) int64, flat into h' * w'.
        confidence: (N, h, w) cosine in [-1, 1].
    """
    height, width = query.shape[-2:]
    lack = (0, max(0, patch_size - width), 0, max(0, patch_size - height))
    index, confidence = match_patches_inside(
        F.pad(query, lack, mode='replicate'), key, patch_size, **more
    )
    rows, down = _nearest(height, index.shape[-2], patch_size // 2, index.device)
    columns, along = _nearest(width, index.shape[-1], patch_size // 2, index.device)
    shift = down.unsqueeze(1) * key.shape[-1] + along
    return index[:, rows][..., columns] + shift, confidence[:, rows][..., columns]


def _nearest(length: int, number: int, radius: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """For each position of an axis the nearest of ``number`` patches, and how far it is off."""
    position = torch.arange(length, device=device) - radius
    nearest = position.clamp(0, number - 1)
    return nearest, position - nearest
