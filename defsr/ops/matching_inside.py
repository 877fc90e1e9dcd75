"""Patch matching without padding: patches that lie in their maps, and no others."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from defsr.ops.float32 import in_float32
from defsr.ops.matching import check_maps, match_patches


@in_float32
def match_patches_inside(
    query: Tensor,
    key: Tensor,
    patch_size: int = 3,
    *,
    key_mask: Tensor | None = None,
    **more: Any,
) -> tuple[Tensor, Tensor]:
    """As ``match_patches`` for the patches that lie inside both maps (C2-Matching's search).

    Args:
        query: (N, C, h, w) features, both sides at least ``patch_size``.
        key: (N, C, h', w') features, as large at least.
        patch_size: side of the patches, odd.
        key_mask: (h', w') bool; only patches of which all is True can be matched. Default: all.
        more: ``block_elements`` and ``progress`` of ``match_patches``.

    Returns:
        index: (N, h - patch_size + 1, w - patch_size + 1) int64 into h' * w', the centre of the
            matched patch, for the patches of ``query`` from the top left one on.
        confidence: of the same shape.

    Raises:
        ValueError: as ``match_patches``, and if there is no such patch.
    """
    check_maps(query, key, patch_size, key_mask)
    radius = patch_size // 2
    allowed = query.new_ones(key.shape[-2:]) if key_mask is None else key_mask.to(query.dtype)
    # The least value around each position, 0 beyond the map.
    around = F.pad(allowed, (radius,) * 4)[None, None]
    whole = -F.max_pool2d(-around, patch_size, stride=1)[0, 0] > 0
    if min(query.shape[-2:]) < patch_size or not bool(whole.any()):
        raise ValueError(
            f'query {tuple(query.shape)} and key {tuple(key.shape)} must both have a patch of '
            f'{patch_size}x{patch_size} inside. Use larger images.'
        )
    index, confidence = match_patches(query, key, patch_size, key_mask=whole, **more)
    rows, columns = (slice(radius, side - radius) for side in query.shape[-2:])
    return index[:, rows, columns], confidence[:, rows, columns]


def matches_with_ring(index: Tensor, key_width: int, patch_size: int = 3) -> Tensor:
    """Matches of all positions of a map and of one ring around it.

    Args:
        index: (N, h - patch_size + 1, w - patch_size + 1), see ``match_patches_inside``.
        key_width: w'.

    Returns:
        (N, 2, h + 2, w + 2) int64, rows then columns: the match of the patch around each
        position, and the position itself where there is no patch. Element (1, 1) is position
        (0, 0).
    """
    border = patch_size // 2 + 1
    num, height, width = index.shape
    rows = torch.arange(height + 2 * border, device=index.device) - 1
    columns = torch.arange(width + 2 * border, device=index.device) - 1
    own = torch.stack(torch.meshgrid(rows, columns, indexing='ij')).repeat(num, 1, 1, 1)
    match_yx = torch.stack((index // key_width, index % key_width), dim=1)
    own[:, :, border : border + height, border : border + width] = match_yx
    return own
