"""Methods whose network sees the references in the frame of the input, and nothing else of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from defsr.archs.enhancer_base import Enhancer
from defsr.archs.interface import Reference, Restoration
from defsr.diffusion.degradation import Degradation
from defsr.methods.base import (
    RECTIFY_OPTIONS,
    Method,
    StageProgress,
    check_references,
    say_nothing,
)
from defsr.methods.networks import check_enhancer
from defsr.ops.tiles import Tile


class FromRectified(Method[Sequence[Reference]]):
    """Enhance, rectify and restore, for networks that read ``rectified``.

    Args:
        net_e: enhancer, ``lq -> I_DE`` in [0, 1].
        degradation: of the input.
        rectifying: ``rectify``, which must be given, ``gate``, ``project`` and ``quality`` of
            ``Method``.
    """

    net_e: Enhancer
    blocks = ('network_e',)
    options = RECTIFY_OPTIONS

    def __init__(self, net_e: Enhancer, degradation: Degradation, **rectifying: Any) -> None:
        super().__init__(degradation, **rectifying)
        self.net_e = net_e
        self.frozen = {'network_e': net_e}

    @classmethod
    def check(cls, opt: Mapping[str, Any], degradation: Degradation) -> None:
        """As ``Method.check``; a network that makes its results consistent itself must fit, too."""
        super().check(opt, degradation)
        if getattr(ARCH_REGISTRY.get(opt['network_g']['type']), 'consistent', False):
            check_enhancer('network_g', opt, degradation)

    def prepare(self, net_g: nn.Module, refs: Sequence[Reference]) -> Sequence[Reference]:
        """The references themselves. ValueError for one that is not in the input's frame."""
        check_references(refs, 'A network that reads rectified references')
        if any(ref.valid is None for ref in refs):
            raise ValueError(
                'network_g reads references in the frame of the input, but these are not. Set '
                'rectify, or give the data dataroot_ref_rect.'
            )
        return refs

    def restore(
        self,
        net_g: nn.Module,
        lq: Tensor,
        prepared: Sequence[Reference],
        de: Tensor | None = None,
    ) -> Restoration:
        """As ``Method.restore``."""
        de = self.net_e(lq) if de is None else de
        return Restoration(net_g(lq, de, self._spaces(lq, prepared)), de=de)

    @torch.no_grad()
    def restore_tiled(
        self,
        net_g: nn.Module,
        lq: Tensor,
        prepared: Sequence[Reference],
        *,
        tile: int,
        overlap: int = 16,
        de: Tensor | None = None,
        progress: StageProgress | None = None,
    ) -> Restoration:
        """As ``Method.restore_tiled``; only the network works tile by tile."""
        report = progress or say_nothing
        de = self.net_e(lq) if de is None else de
        spaces = self._spaces(lq, prepared)
        assert spaces is not None, 'prepare refuses none'

        def restored(piece: Tile) -> Tensor:
            here, large = piece.outer(), piece.outer(self.scale)
            return net_g(lq[here], de[large], spaces[here, large])

        return Restoration(self._in_pieces(lq, tile, overlap, restored, report), de=de)
