"""Layers that networks after SRResNet share."""

from __future__ import annotations

from basicsr.archs.arch_util import ResidualBlockNoBN
from torch import Tensor, nn


class ResidualBlock(ResidualBlockNoBN):
    """BasicSR's, to the bit; its sum is made in place, for fresh memory costs more than adding."""

    def forward(self, x: Tensor) -> Tensor:
        """(N,C,H,W) -> the same."""
        out = self.conv2(self.relu(self.conv1(x)))
        if self.res_scale != 1:
            out *= self.res_scale
        out += x
        return out


def residual_blocks(num_block: int, num_feat: int, res_scale: float = 1.0) -> nn.Sequential:
    """That many, one after the other."""
    return nn.Sequential(*(ResidualBlock(num_feat, res_scale) for _ in range(num_block)))


def conv3(num_in_ch: int, num_out_ch: int) -> nn.Conv2d:
    """3x3, of the same size."""
    return nn.Conv2d(num_in_ch, num_out_ch, 3, padding=1)


def leaky() -> nn.LeakyReLU:
    """Of slope 0.1, in place."""
    return nn.LeakyReLU(0.1, inplace=True)


def doubled(num_feat: int) -> nn.Sequential:
    """Twice as large, by sub-pixel convolution."""
    return nn.Sequential(conv3(num_feat, 4 * num_feat), nn.PixelShuffle(2), leaky())


def to_image(num_feat: int) -> nn.Sequential:
    """Features -> three channels."""
    return nn.Sequential(conv3(num_feat, num_feat // 2), leaky(), conv3(num_feat // 2, 3))


def init_normal(module: nn.Module) -> None:
    """For ``apply``: weights of convolutions and products from N(0, 0.02^2), biases 0."""
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
