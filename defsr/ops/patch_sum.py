"""Sums of what several patches put at each position, without a map for each of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def sum_positions(feat: Tensor, index: Tensor, share: Tensor) -> Tensor:
    """Each position of a map: a weighted sum of values of another map. Differentiable in ``feat``.

    Args:
        feat: (N, C, H', W'); stored channels-last it is read where it lies, else copied.
        index: (N, H, W, K) int64, flat into H' * W'.
        share: (N, H, W, K) weights, of ``feat``'s dtype.

    Returns:
        (N, C, H, W) in channels_last memory order.
    """
    return _RowSum.apply(feat, index, share)


class _RowSum(torch.autograd.Function):
    """Whole pixels are the rows of a table; the way back adds to them, term by term."""

    @staticmethod
    def forward(ctx: Any, feat: Tensor, index: Tensor, share: Tensor) -> Tensor:
        num, channels, height, width = feat.shape
        images = torch.arange(num, device=index.device).view(-1, 1, 1, 1)
        rows = (index + images * (height * width)).flatten(0, 2)
        weights = share.flatten(0, 2)
        ctx.save_for_backward(rows, weights)
        ctx.shape = feat.shape
        table = feat.permute(0, 2, 3, 1).reshape(-1, channels)
        total = F.embedding_bag(rows, table, per_sample_weights=weights, mode='sum')
        return total.view(*index.shape[:3], channels).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, weights = ctx.saved_tensors
        num, channels, height, width = ctx.shape
        grad = grad.permute(0, 2, 3, 1).reshape(-1, channels)
        table = grad.new_zeros((num * height * width, channels))
        for place, weight in zip(rows.unbind(1), weights.unbind(1), strict=True):
            table.index_add_(0, place, grad * weight.unsqueeze(1))
        return table.view(num, height, width, channels).permute(0, 3, 1, 2), None, None
