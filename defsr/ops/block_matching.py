"""MASA's coarse-to-fine matching: a place for each block of the input, then for each position."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from defsr.ops.deform import TAPS
from defsr.ops.tiles import even_cuts
from defsr.utils.checks import check_divisible

BLOCK = 8  # positions to a side
ELEMENTS = 2**22  # of unfolded keys that are held at once
EPS = 1e-12


@torch.no_grad()
def match_block_centres(
    query: Tensor, key: Tensor, dilations: Sequence[int] = (1, 2, 3)
) -> tuple[Tensor, Tensor]:
    """The best place of the middle of each 8x8 block: sum of cosines of dilated 3x3 patches.

    Patches of ``key`` are zero beyond its border; those of ``query`` lie inside their block.

    Args:
        query: (N, C, h, w), sides multiples of 8.
        key: (N, C, h', w'), sides free.
        dilations: steps between the nine taps, 1 .. 3.

    Returns:
        index: (N, h/8, w/8) int64 into h' * w', where the block's position (4, 4) is found.
        score: (N, h/8, w/8), from -len(dilations) to len(dilations).
    """
    check_divisible('query', query, BLOCK)
    patches = [_unit(_middles(query, dilation)) for dilation in dilations]
    num, channels, height, width = key.shape
    rows = max(1, ELEMENTS // (num * channels * len(TAPS) * width))
    reach = max(dilations)
    padded = F.pad(key, (reach,) * 4)
    score, index = None, None
    for top, bottom in even_cuts(height, rows):
        total = query.new_zeros(num, patches[0].shape[2], (bottom - top) * width)
        for dilation, patch in zip(dilations, patches, strict=True):
            less = reach - dilation
            part = padded[:, :, top + less : bottom + 2 * reach - less, less:][
                ..., : width + 2 * dilation
            ]
            unfolded = F.unfold(part, 3, dilation=dilation)
            total += patch.mT @ _unit(unfolded)
        best, place = total.max(dim=2)
        place = place + top * width
        if score is None or index is None:
            score, index = best, place
        else:
            better = best > score
            score = torch.where(better, best, score)
            index = torch.where(better, place, index)
    assert score is not None and index is not None, 'a map has rows'
    shape = num, query.shape[-2] // BLOCK, query.shape[-1] // BLOCK
    return index.view(shape), score.view(shape)


def _middles(query: Tensor, dilation: int) -> Tensor:
    """(N, C*9, blocks) around position (4, 4) of each, as ``unfold`` orders them."""
    middle = BLOCK // 2
    taps = [
        query[..., middle + dy * dilation :: BLOCK, middle + dx * dilation :: BLOCK].flatten(2)
        for dy, dx in TAPS
    ]
    return torch.stack(taps, dim=2).flatten(1, 2)


def _unit(x: Tensor) -> Tensor:
    return F.normalize(x, dim=1)


@torch.no_grad()
def match_in_windows(
    query: Tensor, key: Tensor, blocks: Tensor, origin_yx: Tensor, window: tuple[int, int]
) -> Tensor:
    """The best 3x3 patch in a window of ``key`` for each position of some 8x8 blocks.

    Patches of ``query`` repeat its border; those of ``key`` lie inside the window.

    Args:
        query: (N, C, h, w), sides multiples of 8.
        key: (N, C, h', w').
        blocks: (B, 3) int64: image of the batch, row and column of each block.
        origin_yx: (B, 2) int64, the top left corner of each window, inside ``key``.
        window: height and width of the windows, at least 3.

    Returns:
        (B, 2, 8, 8) int64, rows then columns in h' x w', the centres of the matched patches.
    """
    bordered = F.pad(query, (1,) * 4, mode='replicate')
    columns = window[1] - 2
    step = max(1, ELEMENTS // (query.shape[1] * len(TAPS) * (window[0] - 2) * columns))
    found = []
    for first in range(0, len(blocks), step):
        part = blocks[first : first + step]
        origin = origin_yx[first : first + step]
        own = _windows(bordered, part[:, 0], part[:, 1:] * BLOCK, (BLOCK + 2, BLOCK + 2))
        theirs = _windows(key, part[:, 0], origin, window)
        cosine = _unit(F.unfold(own, 3)).mT @ _unit(F.unfold(theirs, 3))
        place = cosine.argmax(dim=2)
        inside = torch.stack((place // columns, place % columns), dim=1) + 1
        found.append((origin.unsqueeze(2) + inside).unflatten(2, (BLOCK, BLOCK)))
    return torch.cat(found)


def _windows(x: Tensor, image: Tensor, origin_yx: Tensor, size: tuple[int, int]) -> Tensor:
    """Windows of (N,C,H,W) at (B,2) corners: (B,C,*size)."""
    height, width = x.shape[-2:]
    rows = origin_yx[:, 0, None] + torch.arange(size[0], device=x.device)
    columns = origin_yx[:, 1, None] + torch.arange(size[1], device=x.device)
    flat = (image.view(-1, 1, 1) * height + rows.unsqueeze(2)) * width + columns.unsqueeze(1)
    pixels = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]).index_select(0, flat.flatten())
    return pixels.view(*flat.shape, -1).permute(0, 3, 1, 2)
