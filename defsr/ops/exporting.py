"""Whether a network is being exported, and operations in the terms that other programs know.

A file for another program holds neither loops over data nor kernels of our own. While one is
written, ``deform_conv_at``, ``upsample_bicubic`` and a few others take the forms of this module:
the same values up to rounding, more slowly, for maps of any size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

TAPS = tuple((i - 1, j - 1) for i in range(3) for j in range(3))


def is_exporting() -> bool:
    """Whether PyTorch is tracing a network for a file; never before PyTorch 2.7."""
    asked = getattr(torch.compiler, 'is_exporting', None)
    return asked is not None and asked()


def sample_plainly(
    feat: Tensor,
    base_yx: Tensor,
    offset_yx: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None,
) -> Tensor:
    """As ``deform_conv_at``: for each tap a ``grid_sample`` and a 1x1 convolution.

    Its positions are shares of the map's sides, so exact to about 1e-7 of these.
    """
    groups = mask.shape[1] // len(TAPS)
    taps = offset_yx.new_tensor(TAPS).view(1, 1, len(TAPS), 2, 1, 1)
    sides = [*feat.shape[-2:]]
    offset = offset_yx.unflatten(1, (groups, len(TAPS), 2))
    position = offset + (taps + base_yx.to(offset_yx)[:, None, None])
    shares = [
        (2 * position[:, :, :, axis].clamp(-2, sides[axis]) + 1) / sides[axis] - 1
        for axis in (1, 0)  # grid_sample wants x first
    ]
    grid_xy = torch.stack(shares, dim=-1).flatten(0, 1)
    masks = mask.unflatten(1, (groups, len(TAPS))).flatten(0, 1).unsqueeze(2)
    maps = feat.unflatten(1, (groups, -1)).flatten(0, 1)
    out = None
    for tap, (dy, dx) in enumerate(TAPS):
        found = F.grid_sample(maps, grid_xy[:, tap], padding_mode='zeros', align_corners=False)
        samples = (found * masks[:, tap]).unflatten(0, (-1, groups)).flatten(1, 2)
        part = F.conv2d(samples, weight[:, :, dy + 1, dx + 1, None, None])
        out = part if out is None else out + part
    assert out is not None
    return out if bias is None else out + bias.view(1, -1, 1, 1)


def fold_plainly(
    feat: Tensor, position_yx: Tensor, factor: int, *, by_count: bool, inside: bool
) -> Tensor:
    """As ``HardTransferArch``: each of the nine patches that cover a position, from shifted maps.

    Args:
        feat: (N, C, H', W').
        position_yx: (N, 2, H, W) int64, sides of at least ``3 * factor``.
        factor: positions of a cell.
        by_count: divide by the number of patches, else by nine.
        inside: without the patches centred on the outermost cells.

    Returns:
        (N, C, H, W).
    """
    num, channels, height, width = feat.shape
    pixels = feat.flatten(2)
    around = (factor,) * 4
    centre = torch.ones_like(position_yx[:, :1])
    if inside:
        centre = F.pad(centre[..., factor:-factor, factor:-factor], around)
    there = F.pad(torch.cat((position_yx, centre), dim=1), around)
    total, count = None, None
    for dy, dx in TAPS:
        rows, columns = factor * (1 - dy), factor * (1 - dx)
        shifted = there[..., rows : rows + position_yx.shape[2], :]
        shifted = shifted[..., columns : columns + position_yx.shape[3]]
        y, x, covers = (shifted[:, 0] + factor * dy, shifted[:, 1] + factor * dx, shifted[:, 2])
        found = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        flat = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
        index = flat.flatten(1).unsqueeze(1).expand(-1, channels, -1)
        value = pixels.gather(2, index).view(num, channels, *flat.shape[1:])
        value = value * (covers * found).unsqueeze(1)
        total = value if total is None else total + value
        count = covers if count is None else count + covers
    assert total is not None and count is not None
    return total / (count.unsqueeze(1) if by_count else len(TAPS))


def upsample_plainly(x: Tensor, weights: Sequence[Sequence[float]], first: int) -> Tensor:
    """A separable upsampling, of which each phase weighs the same neighbours.

    Args:
        x: (N, C, H, W), sides of at least 2; beyond them it is mirrored, edge included.
        weights: of each phase those of the neighbours ``first``, ``first + 1``, ...
        first: offset of the first neighbour.

    Returns:
        (N, C, H * number of phases, W * number of phases).
    """
    table = x.new_tensor(weights).T
    for _ in range(2):  # columns, then rows
        length = x.shape[3]
        own = torch.arange(length, device=x.device)
        shifted = []
        for shift in range(first, first + len(table)):
            at = own + shift
            at = torch.where(at < 0, -1 - at, at)
            shifted.append(x.index_select(3, torch.minimum(at, 2 * length - 1 - at)))
        x = (torch.stack(shifted, dim=4) @ table).flatten(3).transpose(2, 3)
    return x
