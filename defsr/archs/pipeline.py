"""The way from an LR image and its references to the SR image, shared by model and tools."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from defsr.archs.transfer_arch import LEVEL_FACTORS
from defsr.ops.matching import match_patches
from defsr.ops.resize import downsample_bicubic, downsample_pil, upsample_bicubic
from defsr.ops.tiles import make_tiles
from defsr.utils.checks import check_choice
from defsr.utils.levels import round_to_8_bit

MatchKey = Literal['ref', 'ref_down_up', 'ref_enhanced']
MATCH_KEYS = ('ref', 'ref_down_up', 'ref_enhanced')
DEGRADATIONS = {'matlab': downsample_bicubic, 'pil': downsample_pil}
MATCH_LEVEL = 'relu3_1'


class Alignment(NamedTuple):
    """Everything that the trainable network reads, see ``DEFNet.forward``."""

    feat_de: dict[str, Tensor]
    feat_ref: dict[str, Tensor]
    index: Tensor
    confidence: Tensor
    key_size: tuple[int, int]


class ReferenceKeys(NamedTuple):
    """Reference features, ready to be matched by any number of queries."""

    feat_ref: dict[str, Tensor]
    key: Tensor
    mask: Tensor | None


@dataclass
class Restoration:
    """What one super-resolution gives: images (N,3,4h,4w) in about [0, 1], and its matches."""

    sr: Tensor
    de: Tensor
    index: Tensor
    confidence: Tensor
    key_size: tuple[int, int]


class RefSRPipeline:
    """Enhance, extract, match and restore (DEF section 4.1, Eq. 6-13).

    Args:
        net_e: enhancer, ``lq -> I_DE`` in [0, 1].
        net_t: texture extractor, ``img -> {level: feature}``.
        match_key: what the query is matched against: the reference as it is (``ref``, the
            paper), degraded and interpolated (``ref_down_up``, TTSR) or degraded and enhanced
            (``ref_enhanced``). Textures always come from the untouched reference.
        degradation: how a reference is degraded for the last two: ``matlab`` or ``pil`` bicubic.
        scale: LR to HR; 4.
    """

    def __init__(
        self,
        net_e: nn.Module,
        net_t: nn.Module,
        match_key: MatchKey = 'ref',
        degradation: str = 'matlab',
        scale: int = 4,
    ) -> None:
        self.net_e = net_e
        self.net_t = net_t
        self.match_key = check_choice('match_key', match_key, MATCH_KEYS)
        self.degrade = DEGRADATIONS[check_choice('degradation', degradation, DEGRADATIONS)]
        self.scale = scale

    @torch.no_grad()
    def enhance(self, lq: Tensor) -> Tensor:
        """lq (N,3,h,w) -> I_DE (N,3,4h,4w), both in [0, 1]."""
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
        feats = [self.net_t(ref) for ref in refs]
        if self.match_key == 'ref':
            keys = [feat[MATCH_LEVEL] for feat in feats]
        else:
            ref_des = ref_des or [self._soften(ref) for ref in refs]
            keys = [self.net_t(self._trim(image))[MATCH_LEVEL] for image in ref_des]
        if len(refs) == 1:
            return ReferenceKeys(feats[0], keys[0], None)
        feat_ref = {
            level: _stack_maps([feat[level] for feat in feats], gap=factor)
            for level, factor in LEVEL_FACTORS.items()
        }
        inside = [torch.ones_like(key[:1, :1]) for key in keys]
        mask = _stack_maps(inside, gap=1)[0, 0] > 0
        return ReferenceKeys(feat_ref, _stack_maps(keys, gap=1), mask)

    @torch.no_grad()
    def align(self, de: Tensor, references: ReferenceKeys) -> Alignment:
        """Match I_DE (N,3,4h,4w) against prepared references (Eq. 10-12)."""
        feat_de = self.net_t(de)
        index, confidence = match_patches(
            feat_de[MATCH_LEVEL], references.key, key_mask=references.mask
        )
        key_size = tuple(references.key.shape[-2:])
        return Alignment(feat_de, references.feat_ref, index, confidence, key_size)

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
        aligned = self.align(de, self.prepare(refs, ref_des))
        sr = net_g(lq, *aligned, de=de)
        return Restoration(sr, de, aligned.index, aligned.confidence, aligned.key_size)

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
        progress: Callable[[int, int], None] | None = None,
    ) -> Restoration:
        """As ``restore`` for large inputs: matching and restoration run tile by tile.

        Args:
            tile: inner side of a tile in LR pixels, >= 16.
            overlap: context on each side in LR pixels; cut off again.
            de: I_DE of the whole image, if at hand.
            ref_des: see ``prepare``.
            progress: called with (tiles done, tiles) after each tile.
        """
        de = self.enhance(lq) if de is None else de
        references = self.prepare(refs, ref_des)
        index = lq.new_zeros((len(lq), *lq.shape[-2:]), dtype=torch.int64)
        confidence = lq.new_zeros((len(lq), *lq.shape[-2:]))
        sr = torch.empty_like(de)
        tiles = make_tiles(*lq.shape[-2:], side=tile, overlap=overlap)
        for number, piece in enumerate(tiles, start=1):
            de_tile = de[piece.outer(self.scale)]
            aligned = self.align(de_tile, references)
            sr_tile = net_g(lq[piece.outer()], *aligned, de=de_tile)
            sr[piece.inner(self.scale)] = sr_tile[piece.core(self.scale)]
            index[piece.inner()] = aligned.index[piece.core()]
            confidence[piece.inner()] = aligned.confidence[piece.core()]
            if progress:
                progress(number, len(tiles))
        return Restoration(sr, de, index, confidence, tuple(references.key.shape[-2:]))

    def _soften(self, ref: Tensor) -> Tensor:
        """The reference as the LR image sees its scene: degraded as data are, then enlarged."""
        small = round_to_8_bit(self.degrade(ref, self.scale))
        if self.match_key == 'ref_down_up':
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


def _stack_maps(maps: Sequence[Tensor], gap: int) -> Tensor:
    """[(N,C,h_i,w_i)] -> (N,C,H,W): one above the other, zeros to the right and between."""
    width = max(x.shape[-1] for x in maps)
    padded = [F.pad(x, (0, width - x.shape[-1], 0, gap)) for x in maps]
    return torch.cat(padded, dim=2)[:, :, :-gap]
