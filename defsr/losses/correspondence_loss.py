"""C2-Matching's losses on features of known correspondences."""

from __future__ import annotations

from typing import NamedTuple

import torch
from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from defsr.utils.kinds import NotNegative, Positive, Whole

FAR = 10.0  # added to distances that do not count; they are at most 4


class Pairs(NamedTuple):
    """Features at corresponding positions of one image and its reference, each of length 1.

    Attributes:
        query, key: (C, P).
        query_at, key_at: (2, P) int64, their rows and columns.
        all_query, all_at: (C, h*w) and (2, h*w), all of the image's.
    """

    query: Tensor
    key: Tensor
    query_at: Tensor
    key_at: Tensor
    all_query: Tensor
    all_at: Tensor

    @classmethod
    def of(cls, query: Tensor, key: Tensor, places: Tensor, valid: Tensor) -> Pairs:
        """(C,h,w), (C,h',w'), (2,h,w) in positions of ``key``, and (h,w) bool."""
        height, width = query.shape[-2:]
        rows, columns = (torch.arange(side, device=query.device) for side in (height, width))
        own = torch.stack(torch.meshgrid(rows, columns, indexing='ij'))
        there = places[:, valid].round().long()
        matched = key[:, there[0], there[1]]
        return cls(query[:, valid], matched, own[:, valid], there, query.flatten(1), own.flatten(1))


@LOSS_REGISTRY.register()
class ContrastiveLoss(nn.Module):
    """Triplet margin loss with the hardest negative in either image (C2-Matching Eq. 1-2).

    Squared distances of features of length 1: that of a correspondence has to be smaller, by
    ``margin``, than the smallest one to a position farther away than ``safe_radius``.

    Args:
        margin (float): Default: 1.
        safe_radius (int): in positions, along either axis. Default: 4.
        loss_weight (float): Default: 1.
    """

    def __init__(
        self,
        margin: Positive = 1.0,
        safe_radius: Whole = 4,
        loss_weight: NotNegative = 1.0,
    ) -> None:
        super().__init__()
        self.margin, self.safe_radius, self.loss_weight = margin, safe_radius, loss_weight

    def forward(self, pairs: Pairs) -> Tensor:
        """The loss of one image, a scalar."""
        positive = 2 - 2 * (pairs.query * pairs.key).sum(dim=0)
        in_ref = self._hardest(pairs.query, pairs.key_at, pairs.key, pairs.key_at)
        in_query = self._hardest(pairs.key, pairs.query_at, pairs.all_query, pairs.all_at)
        negative = torch.minimum(in_ref, in_query)
        return self.loss_weight * F.relu(self.margin + positive - negative).mean()

    def _hardest(self, feat: Tensor, at: Tensor, others: Tensor, others_at: Tensor) -> Tensor:
        """(P,) smallest distance of (C,P) at (2,P) to those of (C,Q) that are not near."""
        apart = (at.unsqueeze(2) - others_at.unsqueeze(1)).abs().amax(dim=0)
        distance = 2 - 2 * feat.T @ others
        return (distance + FAR * (apart <= self.safe_radius)).amin(dim=1)


@LOSS_REGISTRY.register()
class CorrelationDistillationLoss(nn.Module):
    """The student's correlations against the teacher's, KL divergence (C2-Matching Eq. 3).

    Args:
        temperature (float): of both softmaxes. Default: 0.15.
        loss_weight (float): Default: 15.
    """

    def __init__(self, temperature: Positive = 0.15, loss_weight: NotNegative = 15.0) -> None:
        super().__init__()
        self.temperature, self.loss_weight = temperature, loss_weight

    def forward(self, pairs: Pairs, teacher: Pairs) -> Tensor:
        """The loss of one image, a scalar; both of the same correspondences."""
        student = F.log_softmax(pairs.query.T @ pairs.key / self.temperature, dim=1)
        wanted = F.softmax(teacher.query.T @ teacher.key / self.temperature, dim=1)
        return self.loss_weight * F.kl_div(student, wanted, reduction='batchmean')
