"""References ready to be matched: their features, and where matches in them lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from defsr.archs.interface import Reference
from defsr.archs.levels import LEVEL_FACTORS, MATCH_LEVEL
from defsr.archs.stacked_features import winner_of
from defsr.ops.match_coherence import MatchField, agreed_field, mean_place
from defsr.ops.match_refine import refine_positions
from defsr.ops.warping import flat_positions, match_positions

FINEST = max(LEVEL_FACTORS.values())
FINEST_LEVEL = max(LEVEL_FACTORS, key=lambda level: LEVEL_FACTORS[level])
# Of the neighbourhoods that matches are to agree with, in cells: the first bring in what is matched
# elsewhere, the last follows the scene.
COHERENT_RADII = (4, 3, 2)


class ReferenceKeys(NamedTuple):
    """Reference features, ready to be matched by any number of queries.

    All references lie one above the other in one map; ``rows`` are the first and end row of each
    in ``key``, ``mask`` says where it shows any of them (None: everywhere). ``keys`` are what
    matches are looked for in: at the coarsest level, and at the finer ones if they are refined.
    ``in_frame`` are those references that are in the frame of the input.
    """

    feat_ref: dict[str, Tensor]
    keys: dict[str, Tensor]
    mask: Tensor | None
    rows: Sequence[tuple[int, int]]
    in_frame: Sequence[Reference] = ()

    @property
    def key(self) -> Tensor:
        """(N, C, h', w'), the map that ``index`` points into."""
        return self.keys[MATCH_LEVEL]

    @property
    def key_size(self) -> tuple[int, int]:
        """(h', w') of the map that ``index`` points into."""
        feat = self.feat_ref[MATCH_LEVEL]
        return feat.shape[-2], feat.shape[-1]

    def winner(self, index: Tensor) -> Tensor:
        """Which reference each match lies in: (N,h,w) flat index -> (N,h,w) int64 from 0."""
        return winner_of(index, self.rows, self.key_size[1])

    @torch.no_grad()
    def refined(
        self, feat_de: Mapping[str, Tensor], index: Tensor, pixels: int
    ) -> dict[str, Tensor] | None:
        """Matches moved to where the finer levels agree best.

        Args:
            feat_de: level -> (N, C, f*h, f*w) features of the enhanced input.
            index: (N, h, w), the matches of the coarsest level.
            pixels: how far they may move at the finest level; at 0 they stay.

        Returns:
            level -> (N, 2, f*h, f*w) int64, see ``Alignment.positions``; None if they stay.
        """
        if not pixels:
            return None
        positions = {}
        for level, factor in LEVEL_FACTORS.items():
            radius = pixels * factor // FINEST
            if factor > 1 and radius:
                corners = match_positions(index, self.key_size) * factor
                maps = feat_de[level], self.keys[level]
                place = refine_positions(*maps, corners, factor, radius, window=2 * factor + 1)
            else:
                place = match_positions(index, self.key_size, factor)
            positions[level] = place
        return positions

    @torch.no_grad()
    def coherent(
        self, matches: tuple[Tensor, Tensor], move: Callable[[MatchField], Tensor]
    ) -> MatchField:
        """Matches brought to agree with those around them, see ``agreed_field``.

        Far around each at first, then less far, and each time moved at a finer level between.

        Args:
            matches: index and confidence (N, h, w).
            move: field -> the places (N, 2, h, w) that it moves to, see ``moved``.
        """
        index, confidence = matches
        weight, winner = confidence.clamp_min(0), self.winner(index)
        field = own = MatchField.of(match_positions(index, self.key_size))
        for number, radius in enumerate(COHERENT_RADII):
            place = move(field) if number else own.place
            field = agreed_field(place, weight, radius)
            field = field.where(self._shows(field.place, winner), own)
        return field

    def moved(self, finest: Tensor, field: MatchField, pixels: int) -> Tensor:
        """Where the positions of each cell agree best at the finest level, on average.

        Args:
            finest: (N, C, 4h, 4w) features of the enhanced input.
            field: of the same piece of the input.
            pixels: how far they may move.

        Returns:
            (N, 2, h, w) places.
        """
        maps = finest, self.keys[FINEST_LEVEL]
        corners = field.corners(FINEST)
        fine = refine_positions(*maps, corners, FINEST, pixels, window=2 * FINEST + 1)
        return mean_place(fine, FINEST)

    def _shows(self, place: Tensor, winner: Tensor) -> Tensor:
        """(N, h, w) bool: whether places (N, 2, h, w) lie in the reference that was matched."""
        flat, shows = flat_positions(place.round().long(), self.key_size)
        shows = shows & (self.winner(flat) == winner)
        return shows if self.mask is None else shows & self.mask.flatten()[flat]
