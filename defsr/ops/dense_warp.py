"""An image seen through a dense field of positions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def local_scale(field: Tensor) -> Tensor:
    """How many pixels of the other image lie along one of this, (2, H, W) -> (H, W)."""
    down = torch.gradient(field, dim=1)[0]
    right = torch.gradient(field, dim=2)[0]
    return (down[0] * right[1] - down[1] * right[0]).abs().sqrt()


def warp(image: Tensor, field: Tensor) -> tuple[Tensor, Tensor]:
    """Sample an image, without aliasing where it is finer than what is made of it.

    Args:
        image: (N, C, H', W').
        field: (2, H, W), for each pixel the position in ``image``, rows then columns.

    Returns:
        (N, C, H, W), bicubic, and (1, 1, H, W) bool, where the position lies inside ``image``.
    """
    factor = max(1.0, float(local_scale(field).median()))
    height, width = image.shape[-2:]
    small = image
    if factor > 1.05:
        size = [max(1, round(side / factor)) for side in (height, width)]
        small = F.interpolate(image, size=size, mode='bicubic', antialias=True)
    # Pixel centres lie at whole numbers in `field`, and at halves of the sides in grid_sample.
    sides = torch.tensor([height, width], dtype=field.dtype, device=field.device).view(2, 1, 1)
    normalised = (2 * field + 1) / sides - 1
    grid = normalised.flip(0).permute(1, 2, 0)[None].expand(len(image), -1, -1, -1)
    inside = ((normalised > -1) & (normalised < 1)).all(dim=0)[None, None]
    sampled = F.grid_sample(
        small, grid.to(small), mode='bicubic', padding_mode='border', align_corners=False
    )
    return sampled, inside
