"""DEF's way: enhance, extract, match, then let the network transfer and aggregate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from defsr.archs.enhancer_base import Enhancer
from defsr.archs.interface import Alignment, Reference, Restoration
from defsr.archs.levels import LEVEL_FACTORS, MATCH_LEVEL
from defsr.archs.stacked_features import (
    features_of_tile,
    stacked_features,
    stacked_mask,
    stacked_rows,
    texture_features,
)
from defsr.data.cache_record import KINDS, check_caches
from defsr.diffusion.degradation import Degradation
from defsr.methods.base import (
    RECTIFY_OPTIONS,
    Method,
    Progress,
    StageProgress,
    check_references,
    say_nothing,
)
from defsr.methods.match_keys import MatchKey, check_patch_size, key_weights, mixed_key
from defsr.methods.reference_keys import FINEST_LEVEL, ReferenceKeys
from defsr.ops.match_border import match_patches_carried
from defsr.ops.match_check import CHECKS, checked_confidence, round_trip_distance
from defsr.ops.match_coherence import MatchField
from defsr.ops.matching import match_patches
from defsr.ops.matching_coarse import match_coarse_to_fine
from defsr.ops.matching_near import match_patches_near
from defsr.ops.resize import upsample_bicubic
from defsr.ops.tiles import Tile, make_tiles
from defsr.utils.checks import check_choice, check_int

Search = Callable[..., tuple[Tensor, Tensor]]
SEARCHES = dict[str, Search](exact=match_patches, coarse_to_fine=match_coarse_to_fine)
BORDERS = ('zeros', 'inside')
PAPER = Degradation('matlab', 4)


class Matched(Method[ReferenceKeys]):
    """Enhance, extract, match and restore (DEF section 4.1, Eq. 6-13).

    For networks that read ``matches``.

    Args:
        net_e: enhancer, ``lq -> I_DE`` in [0, 1].
        net_t: texture extractor, ``img -> {level: feature}``.
        match_key: what the query is matched against: the reference as it is (``ref``, the
            paper), degraded and interpolated (``ref_down_up``, TTSR) or degraded and enhanced
            (``ref_enhanced``), or several of them with weights, as ``{ref_enhanced: 1.0,
            ref: 0.5}``, see ``mixed_key``. Textures always come from the untouched reference.
        degradation: how a reference is degraded for the last two: as the data are.
        match_search: ``exact``, or ``coarse_to_fine`` for very large pairs: a fraction of the
            time, about half of the same matches, elsewhere slightly less similar ones.
        match_check: what happens to the confidence of a match whose own match lies elsewhere:
            nothing (``none``, the paper), 0 (``mask``) or less the farther it is (``weight``). It
            takes a second search, from the references to the input.
        match_patch_size: side of the matched patches in positions, odd; 3 in the paper.
        match_border: ``zeros`` (the paper): patches may reach beyond the maps; ``inside`` (SRNTT):
            they may not, positions at the border go with the nearest. With ``exact`` only.
        match_reach: a rectified reference is searched only so many positions around each; 0:
            everywhere, as references are that are not in the frame of the input.
        match_refine: matches move by up to so many pixels, to where the finer levels agree best,
            see ``refine_positions``; 0 (the paper): the displacement of the coarsest level.
        match_coherence: matches follow the motion that most around them share, see
            ``agreed_field``, and are refined from there; with match_refine from 1 on, and not of
            references in the frame of the input, which are aligned more finely already.
            Default: False, as in the paper.
        rectifying: ``rectify``, ``gate``, ``project`` and ``quality`` of ``Method``.

    Raises:
        ValueError: for another value of these.
    """

    net_e: Enhancer
    blocks = ('network_e', 'network_t')
    only_scale = max(LEVEL_FACTORS.values())
    learned = (
        'match_key', 'match_check', 'match_patch_size', 'match_refine', 'match_coherence',
        'match_border',
    )  # fmt: skip
    options = (*learned, 'match_search', 'match_reach', *RECTIFY_OPTIONS)

    def __init__(
        self,
        net_e: Enhancer,
        net_t: nn.Module,
        match_key: MatchKey | Mapping[MatchKey, float] = 'ref',
        degradation: Degradation = PAPER,
        match_search: str = 'exact',
        match_check: str = 'none',
        match_patch_size: int = 3,
        match_refine: int = 0,
        match_coherence: bool = False,
        match_border: str = 'zeros',
        match_reach: int = 0,
        **rectifying: Any,
    ) -> None:
        super().__init__(degradation, **rectifying)
        self.net_e = net_e
        self.net_t = net_t
        self.frozen = {'network_e': net_e, 'network_t': net_t}
        self.match_key = key_weights(match_key)
        self.search = SEARCHES[check_choice('match_search', match_search, SEARCHES)]
        if check_choice('match_border', match_border, BORDERS) == 'inside':
            if match_search != 'exact':
                raise ValueError(
                    f'match_border is inside, but match_search is {match_search}. Set it to exact.'
                )
            self.search = match_patches_carried
        self.match_check = check_choice('match_check', match_check, CHECKS)
        self.patch_size = check_patch_size(match_patch_size)
        self.refine = check_int('match_refine', match_refine, 0)
        self.coherence = check_choice('match_coherence', match_coherence, (True, False))
        if self.coherence and not self.refine:
            raise ValueError(
                f'match_coherence is true, but match_refine is {match_refine}. Set it to 1 or more.'
            )
        self.reach = check_int('match_reach', match_reach, 0)
        if self.reach and (match_border == 'inside' or match_check != 'none'):
            raise ValueError(
                f'match_reach is {match_reach}, which goes with match_border: zeros and '
                'match_check: none only. Set it to 0, or these.'
            )

    def check_data(self, opt: Mapping[str, Any], is_train: bool) -> None:
        """Refuse what would train on other images than intended, or for weeks."""
        super().check_data(opt, is_train)
        datasets = opt['datasets']
        has_caches = any(b.get(f'dataroot_{kind}') for b in datasets.values() for kind in KINDS)
        if has_caches and opt.get('check_cache', True):
            check_caches(datasets, self.net_e.fingerprint())
        if not is_train or not self.net_e.costly or opt['train'].get('allow_online'):
            return
        for key in caches_read(opt):
            if not datasets.get('train', {}).get(key):
                raise ValueError(
                    f'{type(self.net_e).__name__} would run in every training iteration, because '
                    f'datasets:train:{key} is not set. Give a cache of enhanced images, '
                    'or set train:allow_online: true.'
                )

    @torch.no_grad()
    def prepare(self, net_g: nn.Module | None, refs: Sequence[Reference]) -> ReferenceKeys:
        """Features of all references, side by side in one index space.

        Args:
            net_g: not asked.
            refs: sizes free; sides are cut to a multiple of the scale.
        """
        check_references(refs, 'A network that reads matches')
        images = [self._cut(ref.image) for ref in refs]
        feat_ref = stacked_features(self.net_t, images)
        in_frame = [ref for ref in refs if ref.valid is not None]
        levels: Sequence[str] = (MATCH_LEVEL,)
        if self.refine:
            coherent = self._coherent(in_frame)
            levels = (FINEST_LEVEL, MATCH_LEVEL) if coherent else (*LEVEL_FACTORS,)
        found: dict[MatchKey, Any] = {'ref': feat_ref} if 'ref' in self.match_key else {}
        for name in [name for name in self.match_key if name != 'ref']:
            soft = [
                self._cut(ref.enhanced)
                if name == 'ref_enhanced' and ref.enhanced is not None
                else self._soften(image, name)
                for ref, image in zip(refs, images, strict=True)
            ]
            found[name] = stacked_features(self.net_t, soft, levels)
        keys = {
            level: mixed_key({name: maps[level] for name, maps in found.items()}, self.match_key)
            for level in levels
        }
        mask = stacked_mask(images, [ref.valid for ref in refs])
        return ReferenceKeys(feat_ref, keys, mask, stacked_rows(images), in_frame)

    @torch.no_grad()
    def align(self, de: Tensor, references: ReferenceKeys) -> Alignment:
        """Match I_DE (N,3,4h,4w) against prepared references (Eq. 10-12)."""
        feat_de = texture_features(self.net_t, de)
        matches = self._match(feat_de[MATCH_LEVEL], references)
        move = partial(references.moved, feat_de[FINEST_LEVEL], pixels=self.refine)
        coherent = self._coherent(references.in_frame)
        field = references.coherent(matches, move) if coherent else None
        return self._aligned(de, feat_de, matches, references, field)

    def _coherent(self, in_frame: Sequence[Reference]) -> bool:
        """Whether matches are brought to agree."""
        return self.coherence and not in_frame

    def _match(
        self, query: Tensor, references: ReferenceKeys, progress: Progress | None = None
    ) -> tuple[Tensor, Tensor]:
        """Index and confidence (N,h,w) of query features, checked if asked for."""
        key, mask = references.key, references.mask
        options: dict[str, Any] = {'patch_size': self.patch_size, 'progress': progress}
        if self.reach and references.in_frame and query.shape == key.shape:
            return match_patches_near(query, key, self.reach, key_mask=mask, **options)
        index, confidence = self.search(query, key, key_mask=mask, **options)
        if self.match_check != 'none':
            back_index, _ = self.search(key, query, **options)
            distance = round_trip_distance(index, back_index)
            confidence = checked_confidence(confidence, distance, self.match_check)
        return index, confidence

    def _aligned(
        self,
        de: Tensor,
        feat_de: Mapping[str, Tensor],
        matches: tuple[Tensor, Tensor],
        references: ReferenceKeys,
        field: MatchField | None,
    ) -> Alignment:
        positions = (
            references.refined(feat_de, matches[0], self.refine)
            if field is None
            else {level: field.positions(factor) for level, factor in LEVEL_FACTORS.items()}
        )
        return Alignment(feat_de, references.feat_ref, *matches, references.key_size, de, positions)

    def _moved_in_pieces(
        self, de: Tensor, references: ReferenceKeys, tile: int, field: MatchField
    ) -> Tensor:
        """As ``ReferenceKeys.moved`` of the whole input, whose features are read piece by piece."""
        place = torch.empty_like(field.place)
        height, width = place.shape[-2:]
        for piece in make_tiles(height, width, tile, overlap=1):
            finest = features_of_tile(self.net_t, de, piece, [FINEST_LEVEL])[FINEST_LEVEL]
            found = references.moved(finest, field.cut(piece.outer()), self.refine)
            place[piece.inner()] = found[piece.core()]
        return place

    def restore(
        self,
        net_g: nn.Module,
        lq: Tensor,
        prepared: ReferenceKeys,
        de: Tensor | None = None,
    ) -> Restoration:
        """As ``Method.restore``."""
        de = self.net_e(lq) if de is None else de
        aligned = self.align(de, prepared)
        if reads_spaces(net_g):
            aligned.spaces = self._spaces(lq, prepared.in_frame)
        answer = Restoration.of(net_g(lq, aligned))
        return self._completed(answer, de, (aligned.index, aligned.confidence), prepared)

    def _completed(
        self,
        answer: Restoration,
        de: Tensor,
        matches: tuple[Tensor, Tensor],
        references: ReferenceKeys,
    ) -> Restoration:
        index, confidence = matches
        return replace(
            answer,
            de=de,
            index=index,
            confidence=confidence,
            winner=references.winner(index),
            key_size=references.key_size,
        )

    @torch.no_grad()
    def restore_tiled(
        self,
        net_g: nn.Module,
        lq: Tensor,
        prepared: ReferenceKeys,
        *,
        tile: int,
        overlap: int = 16,
        de: Tensor | None = None,
        progress: StageProgress | None = None,
    ) -> Restoration:
        """As ``Method.restore_tiled``.

        Matching sees the whole image, its memory is small anyway; the features of I_DE at the
        finer levels, transfer and aggregation run tile by tile. What grows with the image are
        I_DE, the result, and 1 KiB per 4x4 pixels for the query; with the references 7 KiB per
        4x4 pixels for their features.
        """
        report = progress or say_nothing
        de = self.net_e(lq) if de is None else de
        report('match', 0, 1)
        query = texture_features(self.net_t, de, [MATCH_LEVEL])[MATCH_LEVEL]
        index, confidence = self._match(query, prepared, partial(report, 'match'))
        spaces = self._spaces(lq, prepared.in_frame) if reads_spaces(net_g) else None
        del query
        field = None
        if self._coherent(prepared.in_frame):
            move = partial(self._moved_in_pieces, de, prepared, tile)
            field = prepared.coherent((index, confidence), move)
        if not self.refine:
            del prepared.keys[MATCH_LEVEL]  # one of its own is as large as the query

        def restored(piece: Tile) -> Tensor:
            here, large = piece.outer(), piece.outer(self.scale)
            feat_de = features_of_tile(self.net_t, de, piece)
            matches = index[here], confidence[here]
            cut = field and field.cut(here)
            aligned = self._aligned(de[large], feat_de, matches, prepared, cut)
            if spaces is not None:
                aligned.spaces = spaces[here, large]
            return Restoration.of(net_g(lq[here], aligned)).sr

        sr = self._in_pieces(lq, tile, overlap, restored, report)
        return self._completed(Restoration(sr), de, (index, confidence), prepared)

    def _soften(self, image: Tensor, match_key: MatchKey) -> Tensor:
        """A reference as the LR image sees its scene: degraded as data are, then enlarged."""
        small = self.degradation.degrade(image)
        if match_key == 'ref_down_up':
            return upsample_bicubic(small, self.scale).clamp(0, 1)
        return self.net_e(small)

    def _cut(self, image: Tensor) -> Tensor:
        return self.degradation.cut(image, 'A reference')


def reads_spaces(net_g: nn.Module) -> bool:
    """Whether a network joins its result with references in the frame of the input."""
    return getattr(getattr(net_g, 'module', net_g), 'fusion', None) is not None


def caches_read(opt: Mapping[str, Any]) -> tuple[str, ...]:
    """The data sets' options whose images, if all have them, make the enhancer idle."""
    from_refs = 'ref_enhanced' in key_weights(opt.get('match_key', 'ref'))
    return ('dataroot_de', 'dataroot_ref_de') if from_refs else ('dataroot_de',)
