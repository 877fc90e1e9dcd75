"""DEF's trainable network: texture transfer followed by aggregation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from basicsr.archs import build_network
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from defsr.ops.resize import upsample_bicubic
from defsr.utils.checks import check_choice


@ARCH_REGISTRY.register()
class DEFNet(nn.Module):
    """Transfer and aggregation (DEF section 4.4), the ``network_g`` of ``DEFModel``.

    Args:
        transfer (dict): block of a transfer arch, e.g. ``{type: DCNTransferArch}``.
        aggregator (dict): block of the aggregator, e.g. ``{type: TTSRAggregator}``.
        skip (str): what the aggregator's output is added to: ``none`` (TTSR, the paper),
            ``bicubic`` (the interpolated LR image) or ``de`` (the enhanced input). With a skip the
            last layer starts at zero, so that training starts from that image. Default: none.
        scale (int): upsampling factor; the three levels fix it to 4. Default: 4.
    """

    def __init__(
        self,
        transfer: Mapping[str, object],
        aggregator: Mapping[str, object],
        skip: Literal['none', 'bicubic', 'de'] = 'none',
        scale: int = 4,
    ) -> None:
        super().__init__()
        if scale != 4:
            raise ValueError(f'network_g:scale is {scale}, but DEF is defined for 4 only.')
        self.scale = scale
        self.skip = check_choice('network_g:skip', skip, ('none', 'bicubic', 'de'))
        self.transfer = build_network(dict(transfer))
        self.aggregator = build_network(dict(aggregator))
        if skip != 'none':
            nn.init.zeros_(self.aggregator.tail[-1].weight)
            nn.init.zeros_(self.aggregator.tail[-1].bias)

    def forward(
        self,
        lq: Tensor,
        feat_de: Mapping[str, Tensor],
        feat_ref: Mapping[str, Tensor],
        index: Tensor,
        confidence: Tensor,
        key_size: tuple[int, int],
        de: Tensor | None = None,
        positions: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Super-resolve with textures at their matches.

        Args:
            lq: (N, 3, h, w) RGB in [0, 1].
            feat_de: level -> (N, C, f*h, f*w) features of the enhanced input.
            feat_ref: level -> (N, C, f*h', f*w') features of the reference.
            index: (N, h, w) int64 into h' * w'.
            confidence: (N, h, w) in [-1, 1].
            key_size: (h', w') of the matched map.
            de: (N, 3, 4h, 4w) in [0, 1]; needed for ``skip: de``.
            positions: of refined matches, see ``DCNTransferArch.forward``.

        Returns:
            sr (N, 3, 4h, 4w), about [0, 1], not clamped.
        """
        more = {} if positions is None else {'positions': positions}
        texture = self.transfer(feat_de, feat_ref, index, confidence, key_size, **more)
        sr = self.aggregator(lq, texture, confidence, feat_de)
        if self.skip == 'bicubic':
            return sr + upsample_bicubic(lq, self.scale)
        if self.skip == 'de':
            return sr + de
        return sr
