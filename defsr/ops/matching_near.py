"""Exact patch matching where a reference is in the frame of the input: within a window."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from defsr.ops.matching import (
    EPS,
    TIE,
    check_maps,
    first_reaching,
    has_kernel,
    patch_norm,
    search_on_gpu,
)
from defsr.ops.shifts import by_shift
from defsr.ops.tiles import even_cuts
from defsr.utils.checks import check_at_least

SIDE = 8  # of a tile of queries: few products beside the needed ones, yet a matrix worth the call


@torch.no_grad()
def match_patches_near(
    query: Tensor,
    key: Tensor,
    reach: int,
    patch_size: int = 3,
    *,
    key_mask: Tensor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """As ``match_patches`` among the keys at most ``reach`` rows and columns away.

    The products of a tile of queries and of the keys around it are one matrix product. Those of one
    shift are a map over the tile, whose sums over patches are the scores of that shift.

    Args:
        query: (N, C, h, w) features.
        key: (N, C, h, w) features of a reference in the same frame.
        reach: of the search in positions, >= 0.
        patch_size, key_mask, progress: as of ``match_patches``. Where the mask allows none of the
            keys, the match is the position itself, with a confidence of 0.

    Returns:
        index and confidence (N, h, w), as of ``match_patches``.

    Raises:
        ValueError: as ``match_patches``, for maps of two sizes and a reach below 0.
    """
    check_maps(query, key, patch_size, key_mask)
    check_at_least('reach', reach, 0)
    if query.shape != key.shape:
        raise ValueError(
            f'query {tuple(query.shape)} and key {tuple(key.shape)} must be of one size to be in '
            'one frame.'
        )
    num, _, height, width = query.shape
    dtype = torch.promote_types(query.dtype, torch.float32)
    halo, side = patch_size - 1, 2 * reach + 1
    query_norm = patch_norm(query, patch_size).clamp_min(EPS)
    own = torch.arange(height * width, device=query.device).view(height, width)
    if has_kernel(query.device):
        options = {'reach': reach, 'progress': progress}
        index, best = search_on_gpu(query, key, patch_size, key_mask, query_norm, **options)
        found = best > -math.inf
        confidence = torch.where(found, best / query_norm, 0).to(query.dtype)
        return torch.where(found, index, own), confidence
    key_scale = patch_norm(key, patch_size).clamp_min(EPS).reciprocal()
    ruled_out = key_scale.new_zeros(height, width)
    if key_mask is not None:
        ruled_out[~key_mask] = -math.inf
    offset = F.pad(ruled_out, [reach] * 4, value=-math.inf)
    margins = [reach + halo // 2] * 4
    shifts = torch.arange(-reach, reach + 1, device=query.device)
    shifts = (shifts[:, None] * width + shifts).flatten()
    index = own.expand(num, -1, -1).clone()
    confidence = torch.zeros_like(query_norm)
    tiles = list(itertools.product(even_cuts(height, SIDE), even_cuts(width, SIDE)))
    for n in range(num):
        queries = F.pad(query[n].to(dtype), [halo // 2] * 4)
        keys = F.pad(key[n].to(dtype), margins)
        scale = F.pad(key_scale[n], [reach] * 4)
        for done, ((top, bottom), (left, right)) in enumerate(tiles, start=1):
            rows, columns = bottom - top, right - left
            here = slice(top, bottom), slice(left, right)
            score = _scores(
                queries[:, top : bottom + halo, left : right + halo],
                keys[:, top : bottom + halo + 2 * reach, left : right + halo + 2 * reach],
                side,
                patch_size,
            )
            around = slice(top, bottom + 2 * reach), slice(left, right + 2 * reach)
            factor, summand = (
                x[around].unfold(0, rows, 1).unfold(1, columns, 1) for x in (scale, offset)
            )
            score = (score * factor + summand).flatten(0, 1)
            best = score.amax(dim=0)
            found = best > -math.inf
            first = first_reaching(score, best - TIE * query_norm[n][here])
            index[n][here] += torch.where(found, shifts[first], 0)
            confidence[n][here] = torch.where(found, best / query_norm[n][here], 0)
            if progress:
                progress(n * len(tiles) + done, num * len(tiles))
    return index, confidence.to(query.dtype)


def _scores(query: Tensor, key: Tensor, side: int, patch_size: int) -> Tensor:
    """(side, side, a, b), inner products of patches, by shift.

    Args:
        query: (C, a + halo, b + halo).
        key: (C, a + halo + side - 1, b + halo + side - 1).
    """
    rows, columns = query.shape[1:]
    products = key.flatten(1).T @ query.flatten(1)
    maps = by_shift(products.T.unsqueeze(0), rows, columns, side).squeeze(0).contiguous()
    for dim in (2, 3):
        length = maps.shape[dim] - patch_size + 1
        total = maps.narrow(dim, 0, length).clone()
        for start in range(1, patch_size):
            total += maps.narrow(dim, start, length)
        maps = total
    return maps
