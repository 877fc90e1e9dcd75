"""An enhancer without diffusion: any super-resolution network, made consistent with its input."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any, Literal

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor

from defsr.archs.blocks import build_inner, check_factor
from defsr.archs.enhancer_base import Enhancer
from defsr.ops.tiles import make_tiles
from defsr.utils.checks import check_image, check_int
from defsr.utils.fingerprints import digest_of_state, plain, with_defaults


@ARCH_REGISTRY.register()
class SISREnhancer(Enhancer):
    """Detail from a single-image network, followed by the null-space projection. Not in the paper.

    ``I_DE = A_pinv y + (I - A_pinv A) net(y)``: what the network says of the null space, and y
    itself in the range space (DEF Eq. 5 with a network in place of the diffusion). One forward
    pass, and ``A I_DE = y`` exactly. Frozen, eval mode.

    Args:
        network (dict): an arch block, ``type`` and its arguments, of a BasicSR network that maps
            (N,3,h,w) to (N,3,scale*h,scale*w) in [0,1], e.g. ``{type: EDSR, ...}``. Its weights
            are ``path:pretrain_network_e``.
        scale (int): upsampling factor, >= 2. Default: 4.
        degradation (str): ``matlab`` or ``pil``, how lq was made. Default: ``matlab``.
        tile (int): larger images go through the network in tiles of at most this side, in LR
            pixels. Default: 256.
        overlap (int): context around a tile in LR pixels, >= 0. At half of the network's receptive
            field or more, tiles change nothing. Default: 32.

    Raises:
        ValueError: for an unknown network, and for values out of range.

    Example:
        >>> block = {'type': 'EDSR', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_block': 1}
        >>> enhancer = SISREnhancer({**block, 'upscale': 4})  # untrained: A I_DE is y all the same
        >>> lq = torch.rand(1, 3, 12, 16)
        >>> torch.allclose(enhancer.operator.A(enhancer.enhance(lq)), lq, atol=1e-5)
        True
    """

    consistent = True
    trained = 'network'

    def __init__(
        self,
        network: Mapping[str, Any],
        scale: int = 4,
        degradation: Literal['matlab', 'pil'] = 'matlab',
        *,
        tile: int = 256,
        overlap: int = 32,
    ) -> None:
        super().__init__(scale, degradation)
        self.check('network_e', {'tile': tile, 'overlap': overlap})
        self.tile, self.overlap = tile, overlap
        self._network_block = deepcopy(dict(network))
        self.network = build_inner('network_e:network', network).requires_grad_(False)
        self.eval()

    @classmethod
    def check(cls, where: str, block: Mapping[str, Any]) -> None:
        """As ``Enhancer.check``."""
        super().check(where, block)
        check_int(f'{where}:tile', block.get('tile', 256), 1)
        check_int(f'{where}:overlap', block.get('overlap', 32), 0)
        if 'network' in block:
            scale = block.get('scale', 4)
            check_factor(f'{where}:network', block['network'], f'{where}:scale', scale)

    def fingerprint(self) -> dict[str, Any]:
        """As ``Enhancer.fingerprint``, with the network and its weights' SHA-256."""
        block = self._network_block
        options = with_defaults(ARCH_REGISTRY.get(block['type']), block)
        own = {
            'network': plain(options),
            'network_sha256': digest_of_state(self.network.state_dict()),
        }
        return super().fingerprint() | own

    def forward(self, lq: Tensor) -> Tensor:
        """(N,3,h,w) RGB in [0,1] -> I_DE (N,3,scale*h,scale*w), clamped to [0,1]."""
        return self.enhance(lq).clamp(0, 1)

    @torch.no_grad()
    def enhance(self, lq: Tensor, progress: Callable[[int, int], None] | None = None) -> Tensor:
        """As ``forward`` without the clamp: ``operator.A`` of it is ``lq``.

        Args:
            lq: (N,3,h,w) RGB in [0, 1], any size.
            progress: called as ``progress(tile, num_tiles)`` after each.

        Raises:
            ValueError: if ``lq`` is no such image, and if the network is one of another scale.
        """
        check_image('lq', lq)
        num, channels, height, width = lq.shape
        detail = lq.new_empty((num, channels, self.scale * height, self.scale * width))
        tiles = make_tiles(height, width, side=self.tile, overlap=self.overlap)
        for number, piece in enumerate(tiles, start=1):
            seen = lq[piece.outer()]
            answer = self.network(seen)
            expected = (num, channels, *(self.scale * side for side in seen.shape[-2:]))
            if answer.shape != expected:
                raise ValueError(
                    f'network_e:network ({type(self.network).__name__}) makes {tuple(answer.shape)}'
                    f' of {tuple(seen.shape)}, but network_e:scale is {self.scale}. Give it '
                    f'`upscale: {self.scale}`.'
                )
            detail[piece.inner(self.scale)] = answer[piece.core(self.scale)]
            if progress:
                progress(number, len(tiles))
        return self.operator.project(detail, lq)
