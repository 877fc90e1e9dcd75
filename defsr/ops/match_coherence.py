"""Matches that agree with those around them: each follows the motion that most of them share."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from defsr.ops.dense_warp import positions
from defsr.ops.float32 import in_float32
from defsr.ops.tiles import Index, Span, even_cuts
from defsr.utils.checks import check_at_least

TOLERANCE = 0.75  # cells: a match agrees with a motion if it is no farther from where that leads,
SLACK = 0.25  # and so much for each cell of distance; once slopes are fitted
SLACK_OF_FIT = 0.1
LEAST = 0.2  # of the neighbourhood must agree, or a match stays where it is
RIDGE = 1.0  # of the slopes, in confidences times cells squared
STEEPEST = 0.35  # cells of displacement from cell to cell: scales to 1.35, rotations to 20 degrees
EPS = 1e-6
PIECE = 2**20  # numbers of the neighbours that are worked on at a time


class MatchField(NamedTuple):
    """Where the centre of each cell finds its match, and how that changes around it.

    Attributes:
        place: (N, 2, h, w) float, rows then columns, in cells of the matched map.
        slope: (N, 2, 2, h, w) float: ``slope[:, i, j]`` is what a step of one cell along j (rows,
            then columns) adds to the displacement's row or column i; 0: a cell moves as a whole.
    """

    place: Tensor
    slope: Tensor

    @classmethod
    def of(cls, match_yx: Tensor) -> MatchField:
        """Of (N, 2, h, w) matched cells."""
        place = match_yx.float()
        return cls(place, place.new_zeros((len(place), 2, *place.shape[1:])))

    def cut(self, here: Index) -> MatchField:
        """A piece of the image; its matches stay where they are."""
        return MatchField(self.place[here], self.slope[here])

    def where(self, kept: Tensor, other: MatchField) -> MatchField:
        """This field where ``kept`` (N, h, w), another one elsewhere."""
        kept = kept.unsqueeze(1)
        return MatchField(
            torch.where(kept, self.place, other.place),
            torch.where(kept.unsqueeze(1), self.slope, other.slope),
        )

    def positions(self, factor: int) -> Tensor:
        """Where each position of a ``factor`` times finer level finds its match.

        Returns:
            (N, 2, factor*h, factor*w) int64, the nearest; they may lie outside the map.
        """
        num, _, height, width = self.place.shape
        steps = torch.arange(factor, device=self.place.device) - (factor - 1) / 2
        # Dimensions: image, row or column of the match, rows of cells and of positions in them,
        # columns of cells and of positions in them.
        own_y, own_x = steps.view(1, 1, 1, -1, 1, 1), steps.view(1, 1, 1, 1, 1, -1)
        cells = (num, 2, height, 1, width, 1)
        by_row, by_column = (self.slope[:, :, axis].reshape(cells) for axis in (0, 1))
        fine = self.place.reshape(cells) * factor + (factor - 1) / 2
        fine = fine + by_row * own_y + by_column * own_x
        fine = fine + torch.cat(torch.broadcast_tensors(own_y, own_x), dim=1)
        return fine.round().long().reshape(num, 2, factor * height, factor * width)

    def corners(self, factor: int) -> Tensor:
        """(N, 2, h, w) int64: the match of each cell's first position, were all to move alike."""
        return (self.place * factor).round().long()


def mean_place(fine_yx: Tensor, factor: int) -> Tensor:
    """Positions of a finer level (N, 2, factor*h, factor*w) -> their cells' places (N, 2, h, w)."""
    own = F.avg_pool2d(fine_yx.float(), factor)
    return (own - (factor - 1) / 2) / factor


@torch.no_grad()
@in_float32
def agreed_field(place: Tensor, weight: Tensor, radius: int) -> MatchField:
    """The motion that most matches around each cell share, by voting and weighted least squares.

    A patch that looks alike elsewhere is matched there; its neighbours disagree. Each cell's
    displacement is voted on by the (2 radius + 1)^2 cells around it, with their weight; of itself
    and its eight neighbours the one with most votes is the first guess. Around it an affine
    displacement is fitted twice to the matches that agree with the last guess. Not in the paper.

    Args:
        place: (N, 2, h, w) matches, rows then columns, in cells; fractions are welcome.
        weight: (N, h, w) >= 0 of each.
        radius: of the neighbourhood, in cells, >= 1.

    Returns:
        The field; where fewer than ``LEAST`` matches agree it is ``place`` as it was.

    Raises:
        ValueError: for a radius below 1.
    """
    check_at_least('radius', radius, 1)
    own = positions(*place.shape[-2:]).to(place.device)
    shift = place.to(torch.promote_types(place.dtype, torch.float32)) - own
    guess = _most_voted(shift, weight, radius)
    pieces = [_fitted(shift, weight, guess, radius, rows) for rows in _bands(place, radius)]
    fitted, slope, number = (torch.cat(parts, dim=-2) for parts in zip(*pieces, strict=True))
    agreed = number >= LEAST * (2 * radius + 1) ** 2
    return MatchField(fitted + own, slope).where(agreed, MatchField.of(place))


def _bands(x: Tensor, radius: int) -> list[Span]:
    """Rows whose neighbours are worked on at a time."""
    line = 2 * (2 * radius + 1) ** 2 * len(x) * x.shape[-1]
    return even_cuts(x.shape[-2], max(1, PIECE // line))


def _neighbours(x: Tensor, radius: int, rows: Span) -> Tensor:
    """(N, C, h, w) -> (N, C, K, rows, w), of each cell in some rows; zero outside the map."""
    first, end = rows[0] - radius, rows[1] + radius
    part = x[:, :, max(0, first) : end]
    above, below = max(0, -first), max(0, end - x.shape[-2])
    part = F.pad(part, (radius, radius, above, below))
    near = F.unfold(part, 2 * radius + 1)
    return near.view(*x.shape[:2], -1, rows[1] - rows[0], x.shape[-1])


def _offsets(radius: int, like: Tensor) -> Tensor:
    """(K, 2), rows and columns to the neighbours, in the order of ``_neighbours``."""
    line = torch.arange(-radius, radius + 1).to(like)
    return torch.cartesian_prod(line, line)


def _within(one: Tensor, other: Tensor, limit: Tensor) -> Tensor:
    """(N, 2, K, h, w) twice -> (N, K, h, w) bool: whether they are no farther apart (K, 1, 1)."""
    y, x = (one - other).square_().unbind(1)
    return y + x <= limit.square()


def _most_voted(shift: Tensor, weight: Tensor, radius: int) -> Tensor:
    """(N, 2, h, w): of each cell and its neighbours' displacements that with the most votes."""
    far = torch.linalg.vector_norm(_offsets(radius, shift), dim=1).view(-1, 1, 1)
    votes = []
    for rows in _bands(shift, radius):
        near = _neighbours(shift, radius, rows)
        agrees = _within(near, shift[:, :, None, slice(*rows)], TOLERANCE + SLACK * far)
        trust = _neighbours(weight.unsqueeze(1), radius, rows).squeeze(1)
        votes.append((trust * agrees).sum(dim=1))
    all_rows = (0, shift.shape[-2])
    voted = torch.cat(votes, dim=-2)
    best = _neighbours(voted.unsqueeze(1), 1, all_rows).argmax(dim=2)  # (N, 1, h, w)
    near = _neighbours(shift, 1, all_rows)
    return near.gather(2, best.unsqueeze(2).expand(-1, 2, -1, -1, -1)).squeeze(2)


def _fitted(
    shift: Tensor, weight: Tensor, guess: Tensor, radius: int, rows: Span
) -> tuple[Tensor, Tensor, Tensor]:
    """Displacement (N,2,r,w), slope (N,2,2,r,w) and number of matches that agree (N,r,w)."""
    offsets = _offsets(radius, shift)
    far = torch.linalg.vector_norm(offsets, dim=1).view(-1, 1, 1)
    guess = guess[:, :, slice(*rows)]
    near = _neighbours(shift, radius, rows) - guess.unsqueeze(2)  # small numbers
    trust = _neighbours(weight.unsqueeze(1), radius, rows).squeeze(1)
    exists = trust > 0
    trust = trust * torch.exp(-far.square() / (2 * (0.75 * radius) ** 2))
    moved, slope = near.new_zeros(guess.shape), near.new_zeros((len(near), 2, *guess.shape[1:]))
    for slack in (SLACK, SLACK_OF_FIT):
        led = moved.unsqueeze(2) + torch.einsum('ncjhw,kj->nckhw', slope, offsets)
        agrees = exists & _within(near, led, TOLERANCE + slack * far)
        moved, slope = _least_squares(near, trust * agrees, offsets)
    return guess + moved, slope, agrees.sum(dim=1)


def _least_squares(near: Tensor, weight: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """The affine motion with the least weighted squares, its slopes held by ``RIDGE``.

    Args:
        near: (N, 2, K, h, w) displacements of the neighbours.
        weight: (N, K, h, w) of each.
        offsets: (K, 2), where they are.

    Returns:
        (N, 2, h, w) displacement at the centre, (N, 2, 2, h, w) slope as of ``MatchField``.
    """
    y, x = offsets.unbind(1)
    basis = torch.stack((torch.ones_like(y), y, x, y * y, y * x, x * x), dim=1)
    total, sum_y, sum_x, yy, yx, xx = torch.einsum('nkhw,kp->pnhw', weight, basis)
    total = total.clamp_min(EPS)
    counted = weight.unsqueeze(1) * near
    sums = torch.einsum('nckhw,kp->pnchw', counted, basis[:, :3])
    mean_y, mean_x = (each / total for each in (sum_y, sum_x))
    yy, yx, xx = yy - sum_y * mean_y + RIDGE, yx - sum_y * mean_x, xx - sum_x * mean_x + RIDGE
    along_y, along_x = (
        each - mean.unsqueeze(1) * sums[0]
        for each, mean in zip(sums[1:], (mean_y, mean_x), strict=True)
    )
    det = (yy * xx - yx.square()).unsqueeze(1)
    yy, yx, xx = (each.unsqueeze(1) for each in (yy, yx, xx))
    slope = torch.stack(
        ((xx * along_y - yx * along_x) / det, (yy * along_x - yx * along_y) / det), dim=2
    ).clamp(-STEEPEST, STEEPEST)
    means = torch.stack((mean_y, mean_x), dim=1)
    moved = sums[0] / total.unsqueeze(1) - torch.einsum('ncjhw,njhw->nchw', slope, means)
    return moved, slope
