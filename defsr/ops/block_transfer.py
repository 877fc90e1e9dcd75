"""MASA's transfer: whole matched patches, gathered and averaged inside each block."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from defsr.ops.block_matching import BLOCK
from defsr.ops.deform import TAPS
from defsr.ops.patch_sum import sum_positions
from defsr.ops.warping import finer_positions, flat_positions, upsample_nearest


def transfer_in_blocks(feat: Tensor, match_yx: Tensor, weight: Tensor, factor: int) -> Tensor:
    """The mean of what the matched 3x3 patches of a block put at each of its positions, weighted.

    Patches reach no further than their own 8x8 block; a position in its corner is covered by
    four of them, one in its middle by nine.

    Args:
        feat: (N, C, f*h', f*w') features of the reference.
        match_yx: (N, 2, h, w) int64, rows then columns in h' x w'; h, w multiples of 8.
        weight: (N, 1, h, w), interpolated inside each block.
        factor: f.

    Returns:
        (N, C, f*h, f*w).
    """
    index = []
    for dy, dx in TAPS:
        # A position p is at place d of the patch around p - d.
        around = match_yx.roll((dy, dx), (2, 3)) + match_yx.new_tensor([dy, dx]).view(1, 2, 1, 1)
        index.append(flat_positions(finer_positions(around, factor), feat.shape[-2:])[0])
    share = upsample_nearest(_shares(match_yx.shape[-2:], feat), factor).permute(0, 2, 3, 1)
    total = sum_positions(feat, torch.stack(index, dim=-1), share.expand(len(feat), -1, -1, -1))
    return total * _interpolated(weight, factor)


def _shares(size: torch.Size, like: Tensor) -> Tensor:
    """(1, 9, h, w), for each tap: one over the number of patches where its patch is, else 0."""
    inside = []
    for dy, dx in TAPS:
        rows = _is_inside(size[0], dy, like).view(-1, 1)
        inside.append(rows * _is_inside(size[1], dx, like))
    taps = torch.stack(inside).unsqueeze(0)
    return taps / taps.sum(dim=1, keepdim=True)


def _is_inside(length: int, step: int, like: Tensor) -> Tensor:
    """(length,) 1 where the position ``step`` before is in the same block, else 0."""
    place = torch.arange(length, device=like.device) % BLOCK - step
    return ((place >= 0) & (place < BLOCK)).to(like.dtype)


def _interpolated(weight: Tensor, factor: int) -> Tensor:
    """(N,1,h,w) -> (N,1,f*h,f*w), bilinear inside each block, its border repeated."""
    if factor == 1:
        return weight
    num, _, height, width = weight.shape
    down, along = height // BLOCK, width // BLOCK
    blocks = weight.view(num, down, BLOCK, along, BLOCK).transpose(2, 3)
    large = F.interpolate(
        blocks.reshape(-1, 1, BLOCK, BLOCK),
        scale_factor=float(factor),
        mode='bilinear',
        align_corners=False,
    )
    side = factor * BLOCK
    large = large.view(num, down, along, side, side).transpose(2, 3)
    return large.reshape(num, 1, factor * height, factor * width)
