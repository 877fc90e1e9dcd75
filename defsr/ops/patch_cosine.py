"""The cosine of matched patches, with the gradient that a search has none of."""

from __future__ import annotations

from functools import reduce
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from defsr.ops.matching import EPS
from defsr.ops.warping import gather_positions


def patch_cosine(
    query: Tensor,
    key: Tensor,
    match_yx: Tensor,
    patch_size: int = 3,
    border: Literal['constant', 'replicate'] = 'constant',
) -> Tensor:
    """Cosine of the patches around positions and around their matches, as ``match_patches`` has it.

    Differentiable in both maps.

    Args:
        query: (N, C, h, w) features.
        key: (N, C, h', w') features; patches are zero beyond it.
        match_yx: (N, 2, h, w) int64, rows then columns of the matches inside ``key``.
        patch_size: side of the patches, odd.
        border: what patches have beyond ``query``: zeros, or its border again.

    Returns:
        (N, h, w) in [-1, 1]; 0, without a gradient, where a patch is all zero.
    """
    height, width = query.shape[-2:]
    radius = patch_size // 2
    padded = F.pad(query, (radius,) * 4, mode=border)
    reach = range(patch_size)

    def product(i: int, j: int) -> Tensor:
        step = match_yx.new_tensor([i - radius, j - radius]).view(1, 2, 1, 1)
        own = padded[:, :, i : i + height, j : j + width]
        return (own * gather_positions(key, match_yx + step)).sum(dim=1)

    dot = reduce(torch.add, (product(i, j) for i in reach for j in reach))
    key_norm = _norm(F.pad(key, (radius,) * 4), patch_size)
    norm = _norm(padded, patch_size) * gather_positions(key_norm, match_yx)
    return dot / norm.squeeze(1)


def _norm(padded: Tensor, patch_size: int) -> Tensor:
    """(N,C,h,w) -> (N,1,h-side+1,w-side+1), of the patches inside; at least EPS."""
    energy = padded.square().sum(dim=1, keepdim=True)
    ones = energy.new_ones((1, 1, patch_size, patch_size))
    return F.conv2d(energy, ones).clamp_min(EPS**2).sqrt()
