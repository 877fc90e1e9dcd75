"""References ready to be matched: their features, and where matches in them lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from defsr.archs.interface import Reference
from defsr.archs.levels import LEVEL_FACTORS, MATCH_LEVEL
from defsr.archs.stacked_features import winner_of
from defsr.ops.match_refine import refine_positions
from defsr.ops.warping import match_positions

FINEST = max(LEVEL_FACTORS.values())


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
                cells = match_positions(index, self.key_size)
                maps = feat_de[level], self.keys[level]
                place = refine_positions(*maps, cells, factor, radius, window=2 * factor + 1)
            else:
                place = match_positions(index, self.key_size, factor)
            positions[level] = place
        return positions
