"""Following matches: from a flat index to positions at every level, and the values there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from defsr.ops.exporting import is_exporting


def match_positions(index: Tensor, key_size: Sequence[int], factor: int = 1) -> Tensor:
    """Where each position of a ``factor`` times finer level finds its match.

    The displacement of the matched cell is carried to every position inside it (nearest), so
    position ``factor * p + r`` goes to ``factor * match(p) + r``.

    Args:
        index: (N, h, w) int64, flat into the key map.
        key_size: (h', w') of the key map that was matched.
        factor: 1, 2 or 4: level size over matched size.

    Returns:
        (N, 2, factor*h, factor*w) int64, rows then columns, inside factor*h' x factor*w'.
    """
    if int(index.max()) >= key_size[0] * key_size[1]:
        raise ValueError(
            f'index reaches {int(index.max())}, but the key map {tuple(key_size)} (h, w) has '
            f'{key_size[0] * key_size[1]} positions: it was made for another reference.'
        )
    return finer_positions(torch.stack((index // key_size[1], index % key_size[1]), dim=1), factor)


def finer_positions(match_yx: Tensor, factor: int) -> Tensor:
    """(N,2,h,w) int64 -> (N,2,factor*h,factor*w), as ``match_positions`` carries them."""
    return match_yx if factor == 1 else cell_positions(match_yx * factor, factor)


def cell_positions(corner_yx: Tensor, factor: int) -> Tensor:
    """The match of each position of cells that move as a whole.

    Args:
        corner_yx: (N, 2, h, w) int64, rows then columns: the match of each cell's first position.
        factor: side of a cell in positions.

    Returns:
        (N, 2, factor*h, factor*w) int64.
    """
    fine = corner_yx.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    height, width = fine.shape[-2:]
    fine[:, 0] += (torch.arange(height, device=fine.device) % factor).view(1, height, 1)
    fine[:, 1] += (torch.arange(width, device=fine.device) % factor).view(1, 1, width)
    return fine


def gather_positions(feat: Tensor, position_yx: Tensor) -> Tensor:
    """Values of a map at integer positions; zero outside it.

    Args:
        feat: (N, C, H', W').
        position_yx: (N, 2, H, W) int64, rows then columns.

    Returns:
        (N, C, H, W) in channels_last memory order (whole pixels are copied).
    """
    num, channels, height, width = feat.shape
    flat, inside = flat_positions(position_yx, (height, width))
    flat = flat + torch.arange(num, device=feat.device).view(-1, 1, 1) * (height * width)
    pixels = feat.permute(0, 2, 3, 1).reshape(-1, channels)
    values = pixels.index_select(0, flat.flatten()).view(*flat.shape, channels)
    if is_exporting() or not bool(inside.all()):
        values = values * inside.unsqueeze(-1)
    return values.permute(0, 3, 1, 2)


def flat_positions(position_yx: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """(N,2,H,W) rows and columns -> (N,H,W) flat into ``size``, clamped, and whether inside it."""
    height, width = size
    rows, columns = position_yx.unbind(1)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    return rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1), inside


def displacement(index: Tensor, key_size: Sequence[int]) -> Tensor:
    """(N,h,w) flat index -> (N,2,h,w) float: match minus own position, rows then columns."""
    height, width = index.shape[-2:]
    rows = torch.arange(height, device=index.device).view(1, height, 1)
    columns = torch.arange(width, device=index.device).view(1, 1, width)
    match_yx = match_positions(index, key_size)
    return (match_yx - torch.stack(torch.broadcast_tensors(rows, columns), dim=1)).float()


def upsample_nearest(x: Tensor, factor: int) -> Tensor:
    """(N,C,h,w) -> (N,C,factor*h,factor*w), each value repeated."""
    return x if factor == 1 else F.interpolate(x, scale_factor=float(factor), mode='nearest')
