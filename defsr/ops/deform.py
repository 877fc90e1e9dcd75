"""Modulated deformable convolution around given base positions (the sum of DEF Eq. 13)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

TAPS = tuple((i - 1, j - 1) for i in range(3) for j in range(3))

Backend = Literal['auto', 'torchvision', 'grid_sample']


def deform_conv_at(
    feat: Tensor,
    base_yx: Tensor,
    offset_yx: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    backend: Backend = 'auto',
) -> Tensor:
    """Nine-tap modulated deformable convolution of ``feat`` around ``base_yx``.

    Output at p: sum over taps j of ``w_j feat(base(p) + tap_j + offset_j(p)) mask_j(p)``,
    bilinear, zero outside the map; taps run row by row, (-1,-1) first.

    Args:
        feat: (N, C, H', W'), the map sampled from.
        base_yx: (N, 2, H, W) base positions in pixels of ``feat``, rows then columns.
        offset_yx: (N, G*9*2, H, W); per group and tap the row, then the column offset.
        mask: (N, G*9, H, W) modulation.
        weight: (C_out, C, 3, 3).
        bias: (C_out,) or None.
        backend: ``grid_sample`` (any sizes as they are), ``torchvision`` (its kernels want
            equal sizes, so the smaller map is padded), ``auto``: torchvision on CUDA, where its
            kernels are parallel; grid_sample elsewhere, where they are serial.

    Returns:
        (N, C_out, H, W).
    """
    if backend == 'auto':
        backend = 'torchvision' if feat.is_cuda else 'grid_sample'
    path = _with_torchvision if backend == 'torchvision' else _with_grid_sample
    return path(feat, base_yx, offset_yx, mask, weight, bias)


def _with_grid_sample(
    feat: Tensor,
    base_yx: Tensor,
    offset_yx: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None,
) -> Tensor:
    num, channels, height_ref, width_ref = feat.shape
    groups = mask.shape[1] // len(TAPS)
    size = base_yx.shape[-2:]
    grouped = feat.reshape(num * groups, channels // groups, height_ref, width_ref)
    offsets = offset_yx.view(num, groups, len(TAPS), 2, *size)
    masks = mask.view(num, groups, len(TAPS), 1, *size)
    base = base_yx.to(offset_yx.dtype).unsqueeze(1)
    out = None
    for tap, (dy, dx) in enumerate(TAPS):
        y = base[:, :, 0] + offsets[:, :, tap, 0] + dy
        x = base[:, :, 1] + offsets[:, :, tap, 1] + dx
        grid = torch.stack((_normalise(x, width_ref), _normalise(y, height_ref)), dim=-1)
        sampled = F.grid_sample(
            grouped, grid.flatten(0, 1), mode='bilinear', padding_mode='zeros', align_corners=False
        )
        sampled = (sampled.view(num, groups, -1, *size) * masks[:, :, tap]).flatten(1, 2)
        part = F.conv2d(sampled, weight[:, :, dy + 1, dx + 1, None, None])
        out = part if out is None else out + part
    return out if bias is None else out + bias.view(1, -1, 1, 1)


def _normalise(position: Tensor, length: int) -> Tensor:
    """Pixels -> grid_sample's units, in which the map's outer edges lie at -1 and 1."""
    return (position * 2 + 1) / length - 1


def _with_torchvision(
    feat: Tensor,
    base_yx: Tensor,
    offset_yx: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None,
) -> Tensor:
    height, width = base_yx.shape[-2:]
    own_y = torch.arange(height, device=feat.device, dtype=offset_yx.dtype).view(1, height, 1)
    own_x = torch.arange(width, device=feat.device, dtype=offset_yx.dtype).view(1, 1, width)
    own_yx = torch.stack(torch.broadcast_tensors(own_y, own_x), dim=1)
    relative = base_yx.to(offset_yx.dtype) - own_yx
    offset = offset_yx + relative.repeat(1, mask.shape[1], 1, 1)
    pad_feat = (0, max(0, width - feat.shape[-1]), 0, max(0, height - feat.shape[-2]))
    pad_out = (0, max(0, feat.shape[-1] - width), 0, max(0, feat.shape[-2] - height))
    out = deform_conv2d(
        F.pad(feat, pad_feat),
        F.pad(offset, pad_out),
        weight,
        bias,
        padding=1,
        mask=F.pad(mask, pad_out),
    )
    return out[..., :height, :width]
