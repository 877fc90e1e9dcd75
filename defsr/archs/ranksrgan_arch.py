"""RankSRGAN's networks (Zhang et al., ICCV 2019): its generator, SRResNet, and its Ranker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from basicsr.archs.arch_util import default_init_weights
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from defsr.archs.layers import conv3, residual_blocks
from defsr.utils.checks import check_image
from defsr.utils.kinds import Count, Whole

SOURCE = 'RankSRGAN: XPixelGroup/RankSRGAN'
WIDTHS = (1, 2, 4, 8, 8)  # of the Ranker's stages, in num_feat
MIN_SIDE = 2 ** len(WIDTHS)


@ARCH_REGISTRY.register()
class SRResNet(nn.Module):
    """SRResNet without batch normalisation, as RankSRGAN has it. Names are those of its files.

    BasicSR's ``MSRResNet`` is another: it adds to the interpolated input, has no skip over the
    body, and leaky ReLUs.

    Args:
        num_in_ch (int): channels of the LR image. Default: 3.
        num_out_ch (int): channels of the result. Default: 3.
        num_feat (int): width. Default: 64.
        num_block (int): residual blocks. Default: 16.
        upscale (int): 2, 3 or 4. Default: 4.
    """

    official_source = SOURCE

    def __init__(
        self,
        num_in_ch: Count = 3,
        num_out_ch: Count = 3,
        num_feat: Count = 64,
        num_block: Whole = 16,
        upscale: Literal[2, 3, 4] = 4,
    ) -> None:
        super().__init__()
        self.factors = {2: (2,), 3: (3,), 4: (2, 2)}[upscale]
        self.conv_first = conv3(num_in_ch, num_feat)
        self.recon_trunk = residual_blocks(num_block, num_feat)
        self.LRconv = conv3(num_feat, num_feat)
        for i, factor in enumerate(self.factors, start=1):
            self.add_module(f'upconv{i}', conv3(num_feat, num_feat * factor**2))
        self.HRconv = conv3(num_feat, num_feat)
        self.conv_last = conv3(num_feat, num_out_ch)
        ends = [self.conv_first, *self._upconvs(), self.HRconv, self.conv_last]
        default_init_weights(ends, 0.1)

    @classmethod
    def official_block(cls, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """The constructor's arguments, from the weights."""
        first, up = state['conv_first.weight'], state['upconv1.weight']
        blocks = {key.split('.')[1] for key in state if key.startswith('recon_trunk.')}
        factor = {4: 2, 9: 3}[len(up) // up.shape[1]]
        return {
            'num_in_ch': first.shape[1],
            'num_out_ch': len(state['conv_last.weight']),
            'num_feat': len(first),
            'num_block': len(blocks),
            'upscale': 4 if 'upconv2.weight' in state else factor,
        }

    def forward(self, lq: Tensor) -> Tensor:
        """(N,num_in_ch,h,w) in [0,1] -> (N,num_out_ch,upscale*h,upscale*w), not clamped."""
        x = self.conv_first(lq)
        x = x + self.LRconv(self.recon_trunk(x))
        for conv, factor in zip(self._upconvs(), self.factors, strict=True):
            x = F.relu(F.pixel_shuffle(conv(x), factor))
        return self.conv_last(F.relu(self.HRconv(x)))

    def _upconvs(self) -> list[nn.Module]:
        return [self.get_submodule(f'upconv{i}') for i in range(1, len(self.factors) + 1)]


@ARCH_REGISTRY.register()
class Ranker(nn.Module):
    """Learns to order images as a metric without reference does, NIQE say: lower is better.

    Ten convolutions with batch normalisation, the mean over the image, two linear layers. Its
    own code pools with a square as high as the image, so takes square images only.

    Args:
        num_in_ch (int): channels of the image. Default: 3.
        num_feat (int): width of the first stage; the last has eight times as much. Default: 64.
    """

    official_source = SOURCE

    def __init__(self, num_in_ch: Count = 3, num_feat: Count = 64) -> None:
        super().__init__()
        self.num_in_ch = num_in_ch
        before = num_in_ch
        for i, width in enumerate(WIDTHS):
            wide = width * num_feat
            self.add_module(f'conv{i}_0', nn.Conv2d(before, wide, 3, padding=1))
            if i:
                self.add_module(f'bn{i}_0', nn.BatchNorm2d(wide))
            self.add_module(f'conv{i}_1', nn.Conv2d(wide, wide, 4, stride=2, padding=1))
            self.add_module(f'bn{i}_1', nn.BatchNorm2d(wide))
            before = wide
        self.classifier = nn.Sequential(
            nn.Linear(before, 100), nn.LeakyReLU(0.2), nn.Linear(100, 1)
        )

    @classmethod
    def official_block(cls, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """The constructor's arguments, from the weights."""
        num_feat, num_in_ch = state['conv0_0.weight'].shape[:2]
        return {'num_in_ch': num_in_ch, 'num_feat': num_feat}

    def forward(self, image: Tensor) -> Tensor:
        """(N,num_in_ch,H,W) in [0,1] -> (N,1) scores. ValueError for a side below 32."""
        x = check_image('image', image, self.num_in_ch)
        if min(x.shape[-2:]) < MIN_SIDE:
            raise ValueError(
                f'image is {x.shape[-2]}x{x.shape[-1]} (HxW), but a Ranker needs {MIN_SIDE} pixels '
                'per side. Use a larger gt_size.'
            )
        for name, layer in self.named_children():
            if name.startswith('conv') and f'bn{name[4:]}' in self._modules:
                x = layer(x)  # its normalisation comes before the activation
            elif name != 'classifier':
                x = F.leaky_relu(layer(x), 0.2)
        return self.classifier(x.mean((2, 3)))
