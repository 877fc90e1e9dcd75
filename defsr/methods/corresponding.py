"""C2-Matching's way, and DATSR's: a trained extractor finds correspondences, the network
aggregates there."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from defsr.archs.interface import Correspondences, Reference, Restoration
from defsr.archs.levels import LEVEL_FACTORS, MATCH_LEVEL
from defsr.archs.stacked_features import (
    stacked_features,
    stacked_mask,
    stacked_rows,
    texture_features,
    winner_of,
)
from defsr.diffusion.degradation import Degradation
from defsr.methods.base import (
    RECTIFY_OPTIONS,
    Method,
    Progress,
    StageProgress,
    check_references,
    say_nothing,
)
from defsr.ops.exact import exact
from defsr.ops.matching_inside import match_patches_inside, matches_with_ring
from defsr.ops.padding import pad_to
from defsr.ops.resize import upsample_bicubic
from defsr.ops.tiles import Tile

PATCH = 3  # side of the matched patches, in positions of the coarsest level


class Prepared(NamedTuple):
    """References as ``stacked_features`` lays them out: textures, keys and where they are."""

    feat_ref: dict[str, Tensor]
    key: Tensor
    mask: Tensor | None
    rows: Sequence[tuple[int, int]]
    first: tuple[int, int]  # sides of the first reference, in positions of the coarsest level


class Matches(NamedTuple):
    """What the search found; see ``matches_with_ring``; ``place`` and ``confidence`` are
    those of each position, (N, h, w), as ``Restoration`` has them."""

    ring: Tensor
    place: Tensor
    confidence: Tensor


class Corresponding(Method[Prepared]):
    """Match by a trained extractor, sample around the matches (C2-Matching, section 3).

    For networks that read ``correspondences``. Matched are patches inside the maps of the
    interpolated input and of the references, by features of length 1 (Eq. 4).

    Args:
        net_m: correspondence extractor with ``query`` and ``key``: img -> {level: features}.
        net_t: texture extractor, ``img -> {level: feature}``.
        degradation: of the input.
        rectifying: ``rectify``, ``gate``, ``project`` and ``quality`` of ``Method``.
    """

    blocks = ('network_m', 'network_t')
    only_scale = max(LEVEL_FACTORS.values())
    options = RECTIFY_OPTIONS

    def __init__(
        self, net_m: Any, net_t: nn.Module, degradation: Degradation, **rectifying: Any
    ) -> None:
        super().__init__(degradation, **rectifying)
        self.net_m, self.net_t = net_m, net_t
        self.frozen = {'network_m': net_m, 'network_t': net_t}

    @torch.no_grad()
    def prepare(self, net_g: nn.Module | None, refs: Sequence[Reference]) -> Prepared:
        """Features of all references, one above the other. Sides are cut to multiples of 4."""
        check_references(refs, 'A network for correspondences')
        images = [
            pad_to(self.degradation.cut(ref.image, 'A reference'), PATCH * self.scale)
            for ref in refs
        ]
        mask = stacked_mask(images)
        key = stacked_features(self.net_m.key, images, [MATCH_LEVEL])[MATCH_LEVEL]
        first = images[0].shape[-2] // self.scale, images[0].shape[-1] // self.scale
        feat_ref = stacked_features(self.net_t, images)
        return Prepared(feat_ref, key, mask, stacked_rows(images), first)

    @torch.no_grad()
    def match(self, lq: Tensor, prepared: Prepared, progress: Progress | None = None) -> Matches:
        """Where each patch of lq (N,3,h,w), sides at least 3, is found in the references."""
        up = upsample_bicubic(lq, self.scale).clamp(0, 1)
        query = texture_features(self.net_m.query, up, [MATCH_LEVEL])[MATCH_LEVEL]
        key = prepared.key
        index, confidence = match_patches_inside(
            query, key, PATCH, key_mask=prepared.mask, progress=progress
        )
        ring = matches_with_ring(index, key.shape[-1], PATCH)
        border = (PATCH // 2,) * 4
        # The outermost positions have no patch: no confidence, and in pictures their neighbour's.
        shown = F.pad(exact(index).unsqueeze(1), border, mode='replicate').squeeze(1).to(index)
        return Matches(ring, shown, F.pad(confidence, border))

    def restore(
        self, net_g: nn.Module, lq: Tensor, prepared: Prepared, de: Tensor | None = None
    ) -> Restoration:
        """As ``Method.restore``."""
        height, width = lq.shape[-2:]
        padded = pad_to(lq, PATCH)
        matches = self.match(padded, prepared)
        sr = net_g(padded, self._found(prepared, matches, *_whole(padded)))
        found = self._completed(sr, matches, prepared)
        return found if padded is lq else found.cut(height, width, self.scale)

    @torch.no_grad()
    def restore_tiled(
        self,
        net_g: nn.Module,
        lq: Tensor,
        prepared: Prepared,
        *,
        tile: int,
        overlap: int = 16,
        de: Tensor | None = None,
        progress: StageProgress | None = None,
    ) -> Restoration:
        """As ``Method.restore_tiled``: the search sees the whole image, the network tiles; they
        begin where a network with ``tile_grid`` wants them to."""
        if min(lq.shape[-2:]) < PATCH:
            return self.restore(net_g, lq, prepared)
        report = progress or say_nothing
        report('match', 0, 1)
        matches = self.match(lq, prepared, partial(report, 'match'))

        def restored(piece: Tile) -> Tensor:
            return net_g(lq[piece.outer()], self._found(prepared, matches, *piece.reach))

        grid = getattr(getattr(net_g, 'module', net_g), 'tile_grid', 1)
        sr = self._in_pieces(lq, tile, overlap, restored, report, grid)
        return self._completed(sr, matches, prepared)

    def _found(
        self, prepared: Prepared, matches: Matches, top: int, bottom: int, left: int, right: int
    ) -> Correspondences:
        """What the network reads for a part of the input."""
        here = {
            level: _at_place(feat, prepared.first, (top, bottom, left, right), LEVEL_FACTORS[level])
            for level, feat in prepared.feat_ref.items()
        }
        ring = matches.ring[..., top : bottom + 2, left : right + 2]
        confidence = matches.confidence[..., top:bottom, left:right]
        return Correspondences(prepared.feat_ref, here, ring, confidence)

    def _completed(self, sr: Tensor, matches: Matches, prepared: Prepared) -> Restoration:
        key_size = prepared.key.shape[-2], prepared.key.shape[-1]
        winner = winner_of(matches.place, prepared.rows, key_size[1])
        return Restoration(
            sr,
            index=matches.place,
            confidence=matches.confidence,
            winner=winner,
            key_size=key_size,
        )


def _at_place(
    feat: Tensor, first: tuple[int, int], bounds: tuple[int, int, int, int], factor: int
) -> Tensor:
    """The first reference's features inside the bounds (top, bottom, left, right), zeros beyond."""
    top, bottom, left, right = (factor * side for side in bounds)
    height, width = (factor * side for side in first)
    part = feat[:, :, :height, :width][:, :, top:bottom, left:right]
    missing = right - left - part.shape[-1], bottom - top - part.shape[-2]
    return F.pad(part, (0, missing[0], 0, missing[1])) if any(missing) else part


def _whole(lq: Tensor) -> tuple[int, int, int, int]:
    return 0, lq.shape[-2], 0, lq.shape[-1]
