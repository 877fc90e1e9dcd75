"""A dense field of positions from scattered matches, by affine maps that change with the place."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

FLOOR = 1e-4  # of each match's weight, so that a place without any nearby follows all
STEP = 8  # pixels between the places for which an affine map is solved; bilinear in between


def moving_least_squares(
    query_yx: Tensor, key_yx: Tensor, size: tuple[int, int], sigma: float, step: int = STEP
) -> Tensor:
    """Where each pixel of an image lies in another, by moving least squares (Schaefer et al. 2006).

    At each place p the affine map with the least squares of its errors at the matches, which count
    by exp(-d^2 / 2 sigma^2) + ``FLOOR``, d their distance from p.

    Args:
        query_yx: (K, 2) positions of matches in the image, rows then columns; K >= 3.
        key_yx: (K, 2) where they lie in the other.
        size: (H, W) of the image.
        sigma: in pixels.
        step: in pixels, see ``STEP``.

    Returns:
        (2, H, W) float32, rows then columns.
    """
    height, width = size
    query, key = query_yx.double(), key_yx.double()
    rows = torch.arange(0, height + step, step, dtype=torch.float64)
    columns = torch.arange(0, width + step, step, dtype=torch.float64)
    nodes = torch.cartesian_prod(rows, columns)
    values = torch.cat([_at(part, query, key, sigma) for part in nodes.split(4096)])
    coarse = values.T.reshape(1, 2, len(rows), len(columns))
    # In units of the grid a pixel lies at pixel / step: with corners aligned the whole grid spans
    # (n - 1) * step + 1 pixels.
    full = ((len(rows) - 1) * step + 1, (len(columns) - 1) * step + 1)
    dense = F.interpolate(coarse, size=full, mode='bilinear', align_corners=True)
    return dense[0, :, :height, :width].float()


def _at(places: Tensor, query: Tensor, key: Tensor, sigma: float) -> Tensor:
    """(P, 2) places -> (P, 2) their positions in the other image."""
    squares = torch.cdist(places, query).square()
    weight = torch.exp(-squares / (2 * sigma**2)) + FLOOR
    weight = weight / weight.sum(dim=1, keepdim=True)
    query_mean, key_mean = weight @ query, weight @ key
    moments = torch.einsum('pk,ki,kj->pij', weight, query, query)
    moments = moments - query_mean[:, :, None] * query_mean[:, None, :]
    crossed = torch.einsum('pk,ki,kj->pij', weight, query, key)
    crossed = crossed - query_mean[:, :, None] * key_mean[:, None, :]
    spread = moments.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
    ridge = 1e-6 * spread * torch.eye(2, dtype=torch.float64)
    linear = torch.linalg.solve(moments + ridge, crossed)
    return key_mean + torch.einsum('pi,pij->pj', places - query_mean, linear)
