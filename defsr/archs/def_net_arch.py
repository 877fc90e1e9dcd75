"""DEF's trainable network: texture transfer followed by aggregation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from defsr.archs.blocks import build_network
from defsr.archs.interface import Alignment, Restoration
from defsr.ops.resize import upsample_bicubic
from defsr.utils.checks import check_choice

NO_SPACES = (
    'network_g:fusion reads references in the frame of the input, but these are not. Set rectify, '
    'or give the data dataroot_ref_rect.'
)


@ARCH_REGISTRY.register()
class DEFNet(nn.Module):
    """Transfer and aggregation (DEF section 4.4), the ``network_g`` of ``DEFModel``.

    Reads ``matches``, see ``defsr.archs.interface``.

    Args:
        transfer (dict): block of a transfer arch, e.g. ``{type: DCNTransferArch}``.
        aggregator (dict): block of the aggregator, e.g. ``{type: TTSRAggregator}``.
        skip (str): what the aggregator's output is added to: ``none`` (TTSR, the paper),
            ``bicubic`` (the interpolated LR image) or ``de`` (the enhanced input). With a skip the
            last layer starts at zero, so that training starts from that image. Default: none.
        scale (int): upsampling factor; the three levels fix it to 4. Default: 4.
        fusion (dict | None): block of what joins the result with references in the input's frame,
            e.g. ``{type: NullSpaceFusion}``. Default: None.

    Raises:
        ValueError: for another scale or skip, and for a skip with an aggregator that does not say
            its ``last_layer``.
    """

    reads = 'matches'

    def __init__(
        self,
        transfer: Mapping[str, Any],
        aggregator: Mapping[str, Any],
        skip: Literal['none', 'bicubic', 'de'] = 'none',
        scale: int = 4,
        fusion: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.check('network_g', {'skip': skip, 'scale': scale})
        self.scale, self.skip = scale, skip
        self.transfer = build_network(transfer)
        self.aggregator = build_network(aggregator)
        self.fusion = None if fusion is None else build_network(fusion)
        if skip != 'none':
            last = getattr(self.aggregator, 'last_layer', None)
            if last is None:
                raise ValueError(
                    f'network_g:skip is {skip}, but {type(self.aggregator).__name__} has no '
                    '`last_layer`, the convolution that starts at zero. Give it that attribute, '
                    'or set skip: none.'
                )
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    @classmethod
    def check(cls, where: str, block: Mapping[str, Any]) -> None:
        """Refuse arguments that the constructor would; ValueError names the option."""
        check_choice(f'{where}:skip', block['skip'], ('none', 'bicubic', 'de'))
        if block['scale'] != 4:
            raise ValueError(f'{where}:scale is {block["scale"]}, but DEF is defined for 4 only.')

    def forward(self, lq: Tensor, aligned: Alignment) -> Restoration:
        """Super-resolve with textures at their matches.

        Args:
            lq: (N, 3, h, w) RGB in [0, 1].
            aligned: features and matches; its ``de`` is needed for ``skip: de``, and with its
                ``spaces`` for a ``fusion``.

        Returns:
            ``sr`` (N, 3, 4h, 4w), about [0, 1], not clamped, and the ``textures``.
        """
        textures = self.transfer(aligned)
        sr = self.aggregator(lq, textures, aligned.confidence, aligned.feat_de)
        if self.skip == 'bicubic':
            sr = sr + upsample_bicubic(lq, self.scale)
        elif self.skip == 'de':
            sr = sr + aligned.de
        if self.fusion is not None:
            if aligned.spaces is None:
                raise ValueError(NO_SPACES)
            sr = self.fusion(lq, aligned.de, sr, aligned.spaces, aligned.confidence)
        return Restoration(sr, textures)
