"""An image seen through a dense field of positions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def positions(height: int, width: int) -> Tensor:
    """(2, H, W) float32, each pixel's own row and column."""
    rows = torch.arange(height, dtype=torch.float32).view(-1, 1).expand(height, width)
    columns = torch.arange(width, dtype=torch.float32).expand(height, width)
    return torch.stack((rows, columns))


def rotation(angle: float) -> Tensor:
    """(2, 2) float64 of rows then columns, the angle in radians."""
    cos, sin = math.cos(angle), math.sin(angle)
    return torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)


def linear_field(linear: Tensor, start: Tensor, size: tuple[int, int]) -> Tensor:
    """(2, H, W): each pixel's place times a (2, 2) matrix, plus (2,), rows then columns."""
    moved = torch.einsum('ij,jhw->ihw', linear.double(), positions(*size).double())
    return (moved + start.double().view(2, 1, 1)).float()


def homography_field(homography: Tensor, size: tuple[int, int]) -> Tensor:
    """(2, H, W), rows then columns, of a (3, 3) matrix that takes (x, y, 1), columns first."""
    rows, columns = positions(*size).double()
    places = torch.stack((columns, rows, torch.ones_like(rows)))
    x, y, w = torch.einsum('ij,jhw->ihw', homography.double(), places)
    return torch.stack((y / w, x / w)).float()


def sample(field: Tensor, places_yx: Tensor) -> Tensor:
    """(C, H, W) at (2, h, w) places, bilinear."""
    return F.grid_sample(
        field[None],
        _grid(places_yx, field.shape[-2:]),
        mode='bilinear',
        padding_mode='border',
        align_corners=False,
    )[0]


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

    Example:
        >>> image = torch.rand(1, 3, 12, 16)
        >>> seen, inside = warp(image, positions(12, 16) + 1)  # from one row and column further on
        >>> torch.allclose(seen[..., :11, :15], image[..., 1:, 1:], atol=1e-5)
        True
        >>> inside[0, 0, :, 0].tolist() == 11 * [True] + [False]
        True
    """
    factor = max(1.0, float(local_scale(field).median()))
    height, width = image.shape[-2:]
    small = image
    if factor > 1.05:
        size = [max(1, round(side / factor)) for side in (height, width)]
        small = F.interpolate(image, size=size, mode='bicubic', antialias=True)
    grid = _grid(field, (height, width))
    inside = (grid.abs() < 1).all(dim=-1)[None]
    sampled = F.grid_sample(
        small,
        grid.expand(len(image), -1, -1, -1).to(small),
        mode='bicubic',
        padding_mode='border',
        align_corners=False,
    )
    return sampled, inside


def _grid(places_yx: Tensor, size: Sequence[int]) -> Tensor:
    """(1, h, w, 2) as ``grid_sample`` takes it: pixel centres at halves of the sides."""
    sides = torch.tensor(size, dtype=places_yx.dtype, device=places_yx.device).view(2, 1, 1)
    return ((2 * places_yx + 1) / sides - 1).flip(0).permute(1, 2, 0)[None]
