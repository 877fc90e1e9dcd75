"""DRUNet: a published denoiser that is told how much noise there is (Zhang et al., TPAMI 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from defsr.archs.official_names import count_blocks, renamed
from defsr.archs.told_denoiser import ToldDenoiser
from defsr.utils.kinds import Count, entries


class PlainBlock(nn.Module):
    """Two convolutions on a residual branch, a ReLU between them, without biases."""

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.conv1 = _conv3(num_feat, num_feat)
        self.conv2 = _conv3(num_feat, num_feat)

    def forward(self, x: Tensor) -> Tensor:
        """(N,C,H,W) -> the same."""
        return x + self.conv2(self.conv1(x).relu_())


@ARCH_REGISTRY.register()
class DRUNet(ToldDenoiser):
    """Denoiser ``(x_t, t) -> x0`` for noise of up to 50/255: a U-Net of residual blocks.

    It takes the image with a map of the noise level as one more channel. Levels are halved and
    doubled by 2x2 convolutions of stride 2, skips are added, nothing has a bias: what is scaled,
    image and noise level alike, comes out scaled alike. How it is asked: ``ToldDenoiser``.

    Args:
        num_in_ch (int): channels of the image. Default: 3.
        num_feat (sequence of int): widths per level, fine to coarse. Default: (64, 128, 256, 512),
            those of the published networks.
        num_block (int): residual blocks per level on the way down, and again on the way up.
            Default: 4.

    Example:
        >>> net = DRUNet(num_feat=(8, 16), num_block=1)
        >>> net.stride, tuple(net(torch.zeros(1, 3, 6, 10), torch.tensor([999.0])).shape)
        (2, (1, 3, 6, 10))
    """

    official_source = 'DRUNet: cszn/DPIR, cszn/KAIR'
    largest_sigma = 50 / 255
    around = 64  # it sees more, but hardly: its authors cut large images with so much

    def __init__(
        self,
        num_in_ch: Count = 3,
        num_feat: Annotated[Sequence[Count], entries(1)] = (64, 128, 256, 512),
        num_block: Count = 4,
    ) -> None:
        super().__init__()
        self.stride = 2 ** (len(num_feat) - 1)

        def stage(width: int) -> nn.Sequential:
            return nn.Sequential(*(PlainBlock(width) for _ in range(num_block)))

        pairs = list(zip(num_feat[:-1], num_feat[1:], strict=True))
        self.head = _conv3(num_in_ch + 1, num_feat[0])
        self.down = nn.ModuleList(stage(width) for width in num_feat[:-1])
        self.shrink = nn.ModuleList(nn.Conv2d(*pair, 2, 2, bias=False) for pair in pairs)
        self.body = stage(num_feat[-1])
        self.grow = nn.ModuleList(
            nn.ConvTranspose2d(coarse, fine, 2, 2, bias=False) for fine, coarse in pairs
        )
        self.up = nn.ModuleList(stage(width) for width in num_feat[:-1])
        self.tail = _conv3(num_feat[0], num_in_ch)

    @classmethod
    def official_block(cls, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """The constructor's arguments, from the weights."""
        num_block = count_blocks(state, 'm_body')
        first = state['m_head.weight']
        shrinks = [state[f'm_down{level}.{num_block}.weight'] for level in _levels(state)]
        return {
            'num_in_ch': first.shape[1] - 1,
            'num_feat': [len(weight) for weight in (first, *shrinks)],
            'num_block': num_block,
        }

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The published state dict by our names: levels count from 1 there, a block's ReLU too."""
        number = count_blocks(state, 'm_body')
        stages = {'m_body': ('body', 0)}  # name there -> name here, and what comes before blocks
        starts = {'m_head.': 'head.', 'm_tail.': 'tail.'}
        for level in _levels(state):
            stages[f'm_down{level}'] = f'down.{level - 1}', 0
            stages[f'm_up{level}'] = f'up.{level - 1}', 1
            starts[f'm_down{level}.{number}.'] = f'shrink.{level - 1}.'
            starts[f'm_up{level}.0.'] = f'grow.{level - 1}.'
        for there, (here, before) in stages.items():
            for i in range(number):
                starts[f'{there}.{before + i}.res.0.'] = f'{here}.{i}.conv1.'
                starts[f'{there}.{before + i}.res.2.'] = f'{here}.{i}.conv2.'
        return renamed(state, starts)

    def denoised(self, image: Tensor, sigma: Tensor) -> Tensor:
        """As ``ToldDenoiser.denoised``."""
        x = self.head(torch.cat([image, sigma.expand(-1, 1, *image.shape[-2:])], dim=1))
        skips = []
        for stage, shrink in zip(self.down, self.shrink, strict=True):
            skips.append(x)
            x = shrink(stage(x))
        skips.append(x)
        x = self.body(x)
        for stage, grow in zip(reversed(self.up), reversed(self.grow), strict=True):
            x = stage(grow(x + skips.pop()))
        return self.tail(x + skips.pop())


def _conv3(num_in_ch: int, num_out_ch: int) -> nn.Conv2d:
    return nn.Conv2d(num_in_ch, num_out_ch, 3, padding=1, bias=False)


def _levels(state: Mapping[str, Tensor]) -> range:
    """The numbers of the levels that are halved, from 1 on."""
    return range(1, 1 + len({name.split('.')[0] for name in state if name.startswith('m_down')}))
