"""The cosine of matched patches, with the gradient that a search has none of."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional as F

from defsr.ops.matching import EPS
from defsr.ops.warping import gather_positions


def patch_cosine(query: Tensor, key: Tensor, match_yx: Tensor, patch_size: int = 3) -> Tensor:
    """Cosine of the patches around positions and around their matches, as ``match_patches`` has it.

    Patches are zero outside their map. Differentiable in both maps.

    Args:
        query: (N, C, h, w) features.
        key: (N, C, h', w') features.
        match_yx: (N, 2, h, w) int64, rows then columns of the matches inside ``key``.
        patch_size: side of the patches, odd.

    Returns:
        (N, h, w) in [-1, 1]; 0, without a gradient, where a patch is all zero.
    """
    height, width = query.shape[-2:]
    radius = patch_size // 2
    padded = F.pad(query, (radius,) * 4)
    reach = range(patch_size)

    def product(i: int, j: int) -> Tensor:
        step = match_yx.new_tensor([i - radius, j - radius]).view(1, 2, 1, 1)
        own = padded[:, :, i : i + height, j : j + width]
        return (own * gather_positions(key, match_yx + step)).sum(dim=1)

    dot = reduce(torch.add, (product(i, j) for i in reach for j in reach))
    key_norm = gather_positions(_norm(key, patch_size), match_yx)
    return dot / (_norm(query, patch_size) * key_norm).squeeze(1)


def _norm(x: Tensor, patch_size: int) -> Tensor:
    """(N,C,h,w) -> (N,1,h,w), of the patches; at least EPS."""
    energy = x.square().sum(dim=1, keepdim=True)
    ones = energy.new_ones((1, 1, patch_size, patch_size))
    return F.conv2d(energy, ones, padding=patch_size // 2).clamp_min(EPS**2).sqrt()
