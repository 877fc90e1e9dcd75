"""Parts of MASA-SR: the encoder, and what adapts and aggregates the reference's features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from defsr.archs.layers import conv3, residual_blocks
from defsr.ops.matching import EPS


class Encoder(nn.Module):
    """Features at full, half and quarter size, ``num_feat`` each, with ``num_block`` blocks."""

    def __init__(self, num_feat: int, num_block: Sequence[int]) -> None:
        super().__init__()
        self.at_full = encoder_stage(3, num_feat, num_block[0], stride=1)
        self.at_half = encoder_stage(num_feat, num_feat, num_block[1], stride=2)
        self.at_quarter = encoder_stage(num_feat, num_feat, num_block[2], stride=2)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N,3,H,W), sides multiples of 4 -> full, half and quarter."""
        full = self.at_full(image)
        half = self.at_half(full)
        return full, half, self.at_quarter(half)


class SpatialAdaptation(nn.Module):
    """MASA's SAM: the reference's features with statistics of the input's (Eq. 5-8).

    ``(gamma + std(lr)) * normalised(ref) + beta + mean(lr)`` per channel, gamma and beta from both
    maps; zero at the start. As published, the input's std is the unbiased one, and the reference
    is normalised by the biased one.
    """

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.shared = nn.Sequential(conv3(2 * num_feat, num_feat), nn.ReLU(inplace=True))
        self.gamma = conv3(num_feat, num_feat)
        self.beta = conv3(num_feat, num_feat)

    def forward(self, lr: Tensor, ref: Tensor) -> Tensor:
        """Two (N,C,H,W) of one size, more than one position each -> (N,C,H,W)."""
        style = self.shared(torch.cat((lr, ref), dim=1))
        mean = lr.mean(dim=(2, 3), keepdim=True)
        energy = (lr - mean).square().sum(dim=(2, 3), keepdim=True)
        std = (energy / (lr[0, 0].numel() - 1)).clamp_min(EPS**2).sqrt()
        gamma = self.gamma(style).add_(std)
        return self.beta(style).add_(mean).addcmul_(_instance_norm(ref), gamma)


def _instance_norm(x: Tensor) -> Tensor:
    """``F.instance_norm``, but in x's memory order, which that changes to channels outermost."""
    parts = [F.batch_norm(one, None, None, training=True) for one in x.split(1)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class DualResidualAggregation(nn.Module):
    """MASA's DRAM: features and a reference twice as large refine each other (Eq. 9-10)."""

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.down_ref, self.down_lr = (nn.Conv2d(num_feat, num_feat, 3, 2, 1) for _ in range(2))
        self.up_ref, self.up_lr = (
            nn.ConvTranspose2d(num_feat, num_feat, 3, 2, 1, output_padding=1) for _ in range(2)
        )
        self.merge = conv3(2 * num_feat, num_feat)

    def forward(self, lr: Tensor, ref: Tensor) -> Tensor:
        """(N,C,H,W) and (N,C,2H,2W) -> (N,C,2H,2W)."""
        of_ref = _relu(self.up_ref(_relu(self.down_ref(ref)) - lr)) + ref
        of_lr = _relu(self.up_lr(2 * lr - _relu(self.down_lr(ref))))
        return _relu(self.merge(torch.cat((of_ref, of_lr), dim=1)))


def _relu(x: Tensor) -> Tensor:
    return F.relu(x, inplace=True)


def encoder_stage(num_in: int, num_feat: int, num_block: int, stride: int = 1) -> nn.Sequential:
    """A 3x3 convolution, ReLU and residual blocks."""
    head = nn.Conv2d(num_in, num_feat, 3, stride, 1)
    return nn.Sequential(head, nn.ReLU(inplace=True), residual_blocks(num_block, num_feat))
