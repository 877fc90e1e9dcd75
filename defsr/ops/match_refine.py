"""Matches of a coarse level, moved to where a finer level agrees best."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from defsr.ops.warping import gather_positions
from defsr.utils.checks import check_at_least, check_int

EPS = 1e-12


@torch.no_grad()
def refine_positions(
    query: Tensor, key: Tensor, position_yx: Tensor, radius: int, window: int
) -> Tensor:
    """Each position's match, moved by at most ``radius`` in y and x. Not in the paper.

    A match of the coarsest level, carried to a finer one, is off by up to half a coarse cell. Of
    the (2 radius + 1)^2 shifts of it, that with the largest mean cosine over a window around the
    position is taken; of equal ones the shortest.

    Args:
        query: (N, C, H, W) features.
        key: (N, C, H', W') features of the same level.
        position_yx: (N, 2, H, W) int64, rows then columns in the key map.
        radius: of the search, in positions, >= 0.
        window: side of the window that is averaged over, odd.

    Returns:
        (N, 2, H, W) int64. They may lie outside the map by ``radius``.

    Raises:
        ValueError: for a radius below 0 and an even window.
    """
    check_int('radius', radius, 0)
    if check_at_least('window', window, 1) % 2 == 0:
        raise ValueError(f'window is {window}, but must be odd.')
    query = query / query.square().sum(dim=1, keepdim=True).sqrt().clamp_min(EPS)
    key_scale = key.square().sum(dim=1, keepdim=True).sqrt().clamp_min(EPS).reciprocal()
    best: Tensor | None = None
    best_shift = torch.zeros_like(position_yx)  # the first of the shifts
    for shift in _shifts(radius):
        shift_yx = position_yx.new_tensor(shift).view(1, 2, 1, 1)
        places = position_yx + shift_yx
        cosine = (query * gather_positions(key, places)).sum(dim=1, keepdim=True)
        score = _mean_around(cosine * gather_positions(key_scale, places), window)
        if best is None:
            best = score
            continue
        better = score > best
        best = torch.where(better, score, best)
        best_shift = torch.where(better, shift_yx, best_shift)
    return position_yx + best_shift


def _shifts(radius: int) -> list[tuple[int, int]]:
    """All of them, short ones first."""
    reach = range(-radius, radius + 1)
    return sorted(((y, x) for y in reach for x in reach), key=lambda s: s[0] ** 2 + s[1] ** 2)


def _mean_around(x: Tensor, window: int) -> Tensor:
    """(N,1,H,W), the mean over the window's part inside the map."""
    pad = window // 2
    return F.avg_pool2d(x, window, stride=1, padding=pad, count_include_pad=False)
