"""Confidence that means something: matches that do not lead back are not trusted."""

from __future__ import annotations

import torch
from torch import Tensor

from defsr.utils.checks import check_above, check_choice

CHECKS = ('none', 'mask', 'weight')
TOLERANCE = 2.0  # by docs/matching.md


def round_trip_distance(index: Tensor, back_index: Tensor) -> Tensor:
    """How far from a position its match's own match lies (forward-backward consistency).

    Args:
        index: (N, h, w) int64, matches of the query positions, flat into h' * w'.
        back_index: (N, h', w') int64, matches of the key positions, flat into h * w.

    Returns:
        (N, h, w) float32, Chebyshev distance in positions; 0 where the way leads back.

    Raises:
        ValueError: if one index points out of the other's map.
    """
    height, width = index.shape[-2:]
    for name, given, other in (('index', index, back_index), ('back_index', back_index, index)):
        positions = other.shape[-2] * other.shape[-1]
        if len(given) != len(other) or int(given.max()) >= positions or int(given.min()) < 0:
            raise ValueError(
                f'{name} of {len(given)} maps reaches {int(given.max())}, but the other side has '
                f'{len(other)} maps of {positions} positions: they are not of the same pair.'
            )
    back = back_index.flatten(1).gather(1, index.flatten(1)).view_as(index)
    rows = torch.arange(height, device=index.device).view(1, height, 1)
    columns = torch.arange(width, device=index.device).view(1, 1, width)
    down, along = (back // width - rows).abs(), (back % width - columns).abs()
    return torch.maximum(down, along).float()


def checked_confidence(
    confidence: Tensor, distance: Tensor, how: str, tolerance: float = TOLERANCE
) -> Tensor:
    """Lower the confidence of matches that do not lead back.

    Args:
        confidence: (N, h, w) cosine.
        distance: (N, h, w) of ``round_trip_distance``.
        how: ``none``; ``mask``: 0 where the distance is above the tolerance; ``weight``: times
            ``exp(-(distance / tolerance)^2 / 2)``.
        tolerance: in positions, above 0.

    Returns:
        (N, h, w), confidence's dtype.

    Raises:
        ValueError: for another ``how`` or tolerance.
    """
    check_choice('match_check', how, CHECKS)
    check_above('tolerance', tolerance, 0)
    if how == 'mask':
        return torch.where(distance <= tolerance, confidence, torch.zeros_like(confidence))
    if how == 'weight':
        return confidence * torch.exp(-0.5 * (distance / tolerance).square()).to(confidence)
    return confidence
