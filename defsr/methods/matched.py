"""The way from an LR image and its references to the SR image, shared by model and tools."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from defsr.archs.levels import LEVEL_FACTORS, MATCH_LEVEL
from defsr.images.levels import round_to_8_bit
from defsr.methods.match_keys import (
    MATCH_OPTIONS,
    MatchKey,
    check_patch_size,
    key_weights,
    mixed_key,
)
from defsr.methods.reference_keys import ReferenceKeys
from defsr.methods.texture_maps import (
    features_of_tile,
    stacked_features,
    stacked_mask,
    stacked_rows,
    texture_features,
)
from defsr.ops.match_check import CHECKS, checked_confidence, round_trip_distance
from defsr.ops.matching import match_patches
from defsr.ops.matching_coarse import match_coarse_to_fine
from defsr.ops.resize import downsample_bicubic, downsample_pil, upsample_bicubic
from defsr.ops.tiles import make_tiles
from defsr.utils.checks import check_choice, check_int

DEGRADATIONS = {'matlab': downsample_bicubic, 'pil': downsample_pil}
SEARCHES = {'exact': match_patches, 'coarse_to_fine': match_coarse_to_fine}
STAGES = ('enhance', 'references', 'match', 'restore')

Progress = Callable[[int, int], None]
StageProgress = Callable[[str, int, int], None]


class Alignment(NamedTuple):
    """Everything that the trainable network reads, see ``DEFNet.forward``."""

    feat_de: dict[str, Tensor]
    feat_ref: dict[str, Tensor]
    index: Tensor
    confidence: Tensor
    key_size: tuple[int, int]


@dataclass
class Restoration:
    """What one super-resolution gives: images (N,3,4h,4w) in about [0, 1], and its matches.

    ``index``, ``confidence`` and ``winner`` (which reference, from 0) are (N,h,w).
    """

    sr: Tensor
    de: Tensor
    index: Tensor
    confidence: Tensor
    winner: Tensor
    key_size: tuple[int, int]


class RefSRPipeline:
    """Enhance, extract, match and restore (DEF section 4.1, Eq. 6-13).

    Args:
        net_e: enhancer, ``lq -> I_DE`` in [0, 1].
        net_t: texture extractor, ``img -> {level: feature}``.
        match_key: what the query is matched against: the reference as it is (``ref``, the
            paper), degraded and interpolated (``ref_down_up``, TTSR) or degraded and enhanced
            (``ref_enhanced``), or several of them with weights, as ``{ref_enhanced: 1.0,
            ref: 0.5}``, see ``mixed_key``. Textures always come from the untouched reference.
        degradation: how a reference is degraded for the last two: ``matlab`` or ``pil`` bicubic.
        scale: LR to HR; 4.
        match_search: ``exact``, or ``coarse_to_fine`` for very large pairs: a fraction of the
            time, about half of the same matches, elsewhere slightly less similar ones.
        match_check: what happens to the confidence of a match whose own match lies elsewhere:
            nothing (``none``, the paper), 0 (``mask``) or less the farther it is (``weight``). It
            takes a second search, from the references to the input.
        match_patch_size: side of the matched patches in positions, odd; 3 in the paper.
        match_refine: matches move by up to so many pixels, to where the finer levels agree best,
            see ``refine_positions``; 0 (the paper): the displacement of the coarsest level.

    Raises:
        ValueError: for another value of these.
    """

    def __init__(
        self,
        net_e: nn.Module,
        net_t: nn.Module,
        match_key: MatchKey | Mapping[MatchKey, float] = 'ref',
        degradation: str = 'matlab',
        scale: int = 4,
        match_search: str = 'exact',
        match_check: str = 'none',
        match_patch_size: int = 3,
        match_refine: int = 0,
    ) -> None:
        self.net_e = net_e
        self.net_t = net_t
        self.match_key = key_weights(match_key)
        self.degrade = DEGRADATIONS[check_choice('degradation', degradation, DEGRADATIONS)]
        self.scale = scale
        self.search = SEARCHES[check_choice('match_search', match_search, SEARCHES)]
        self.match_check = check_choice('match_check', match_check, CHECKS)
        self.patch_size = check_patch_size(match_patch_size)
        self.refine = check_int('match_refine', match_refine, 0)

    @classmethod
    def from_opt(
        cls, opt: Mapping[str, object], net_e: nn.Module, net_t: nn.Module, degradation: str
    ) -> RefSRPipeline:
        """With the ``match_*`` options and the scale of an option file."""
        options = {key: opt[key] for key in MATCH_OPTIONS if key in opt}
        return cls(net_e, net_t, degradation=degradation, scale=opt['scale'], **options)

    @torch.no_grad()
    def enhance(self, lq: Tensor, progress: Progress | None = None) -> Tensor:
        """lq (N,3,h,w) -> I_DE (N,3,4h,4w), both in [0, 1]."""
        if progress and self.net_e.costly:
            return self.net_e.enhance(lq, progress).clamp(0, 1)
        return self.net_e(lq)

    @torch.no_grad()
    def prepare(
        self, refs: Sequence[Tensor], ref_des: Sequence[Tensor] | None = None
    ) -> ReferenceKeys:
        """Features of all references, side by side in one index space.

        Args:
            refs: one (N, 3, H', W') tensor per reference, sizes free; sides are cut to a
                multiple of the scale.
            ref_des: the same references degraded and enhanced, if they come from a cache.
        """
        refs = [self._trim(ref) for ref in refs]
        feat_ref = stacked_features(self.net_t, refs)
        levels = tuple(LEVEL_FACTORS) if self.refine else (MATCH_LEVEL,)
        found = {}
        for name in self.match_key:
            if name == 'ref':
                found[name] = feat_ref
                continue
            given = ref_des if name == 'ref_enhanced' else None
            images = [self._trim(image) for image in given or [self._soften(r, name) for r in refs]]
            found[name] = stacked_features(self.net_t, images, levels)
        keys = {
            level: mixed_key({name: maps[level] for name, maps in found.items()}, self.match_key)
            for level in levels
        }
        return ReferenceKeys(feat_ref, keys, stacked_mask(refs), stacked_rows(refs))

    @torch.no_grad()
    def align(self, de: Tensor, references: ReferenceKeys) -> Alignment:
        """Match I_DE (N,3,4h,4w) against prepared references (Eq. 10-12)."""
        feat_de = texture_features(self.net_t, de)
        index, confidence = self._match(feat_de[MATCH_LEVEL], references)
        return Alignment(feat_de, references.feat_ref, index, confidence, references.key_size)

    def _match(
        self, query: Tensor, references: ReferenceKeys, progress: Progress | None = None
    ) -> tuple[Tensor, Tensor]:
        """Index and confidence (N,h,w) of query features, checked if asked for."""
        key, mask = references.key, references.mask
        options = {'patch_size': self.patch_size, 'progress': progress}
        index, confidence = self.search(query, key, key_mask=mask, **options)
        if self.match_check != 'none':
            back_index, _ = self.search(key, query, **options)
            distance = round_trip_distance(index, back_index)
            confidence = checked_confidence(confidence, distance, self.match_check)
        return index, confidence

    def restore(
        self,
        net_g: nn.Module,
        lq: Tensor,
        refs: Sequence[Tensor],
        de: Tensor | None = None,
        ref_des: Sequence[Tensor] | None = None,
    ) -> Restoration:
        """Super-resolve at once; gradients reach ``net_g`` only.

        Args:
            net_g: the trainable network, see ``DEFNet``.
            lq: (N, 3, h, w) RGB in [0, 1].
            refs: one (N, 3, H', W') tensor per reference.
            de: I_DE, if it comes from a cache. Default: enhanced here.
            ref_des: see ``prepare``.
        """
        de = self.enhance(lq) if de is None else de
        references = self.prepare(refs, ref_des)
        aligned = self.align(de, references)
        more = references.refined(aligned.feat_de, aligned.index, self.refine)
        sr = net_g(lq, *aligned, de=de, **more)
        index, confidence, key_size = aligned[2:]
        return Restoration(sr, de, index, confidence, references.winner(index), key_size)

    @torch.no_grad()
    def restore_tiled(
        self,
        net_g: nn.Module,
        lq: Tensor,
        refs: Sequence[Tensor],
        *,
        tile: int,
        overlap: int = 16,
        de: Tensor | None = None,
        ref_des: Sequence[Tensor] | None = None,
        progress: StageProgress | None = None,
    ) -> Restoration:
        """As ``restore`` for large inputs, in memory that the tile bounds.

        Matching sees the whole image, its memory is small anyway; the features of I_DE at the
        finer levels, transfer and aggregation run tile by tile. What grows with the image are
        I_DE, the result, and 1 KiB per 4x4 pixels for the query; with the references 7 KiB per
        4x4 pixels for their features.

        Args:
            tile: inner side of a tile in LR pixels, >= 16.
            overlap: context on each side in LR pixels; cut off again.
            de: I_DE of the whole image, if at hand.
            ref_des: see ``prepare``.
            progress: called as (stage, done, total), stages in the order of ``STAGES``, each
                with done = 0 first.
        """
        report = progress or _say_nothing
        report('enhance', 0, 1)
        de = self.enhance(lq, partial(report, 'enhance')) if de is None else de
        report('enhance', 1, 1)
        report('references', 0, 1)
        references = self.prepare(refs, ref_des)
        report('references', 1, 1)
        report('match', 0, 1)
        query = texture_features(self.net_t, de, [MATCH_LEVEL])[MATCH_LEVEL]
        index, confidence = self._match(query, references, partial(report, 'match'))
        key_size, winner = references.key_size, references.winner(index)
        feat_ref = references.feat_ref
        del query
        if not self.refine:
            del references.keys[MATCH_LEVEL]  # one of its own is as large as the query
        sr = torch.empty_like(de)
        tiles = make_tiles(*lq.shape[-2:], side=tile, overlap=overlap)
        report('restore', 0, len(tiles))
        for number, piece in enumerate(tiles, start=1):
            here = piece.outer()
            de_tile = de[piece.outer(self.scale)]
            feat_de = features_of_tile(self.net_t, de, piece)
            matches = index[here], confidence[here]
            more = references.refined(feat_de, index[here], self.refine)
            sr_tile = net_g(lq[here], feat_de, feat_ref, *matches, key_size, de=de_tile, **more)
            sr[piece.inner(self.scale)] = sr_tile[piece.core(self.scale)]
            report('restore', number, len(tiles))
        return Restoration(sr, de, index, confidence, winner, key_size)

    def _soften(self, ref: Tensor, match_key: MatchKey) -> Tensor:
        """The reference as the LR image sees its scene: degraded as data are, then enlarged."""
        small = round_to_8_bit(self.degrade(ref, self.scale))
        if match_key == 'ref_down_up':
            return upsample_bicubic(small, self.scale).clamp(0, 1)
        return self.enhance(small)

    def _trim(self, image: Tensor) -> Tensor:
        height, width = (side - side % self.scale for side in image.shape[-2:])
        if not height or not width:
            raise ValueError(
                f'A reference is {image.shape[-2]}x{image.shape[-1]} (HxW), '
                f'but both sides must be at least {self.scale}.'
            )
        return image[..., :height, :width]


def memory_format_on(device: torch.device) -> torch.memory_format:
    """Channels innermost on a CPU, which is faster there; the results are the same."""
    return torch.channels_last if device.type == 'cpu' else torch.contiguous_format


def _say_nothing(stage: str, done: int, total: int) -> None:
    pass
