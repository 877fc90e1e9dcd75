"""A denoiser light enough for a CPU: a norm-free U-Net behind a pixel-unshuffle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor

from defsr.archs.adm_blocks import timestep_embedding, zeroed
from defsr.archs.denoisers import check_sides
from defsr.utils.checks import check_int
from defsr.utils.kinds import Count, entries


class FilmBlock(nn.Module):
    """Two convolutions on a residual branch, which the timestep scales and shifts."""

    def __init__(self, num_feat: int, emb_ch: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.film = nn.Linear(emb_ch, 2 * num_feat)
        self.conv2 = zeroed(nn.Conv2d(num_feat, num_feat, 3, 1, 1))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """(N, num_feat, H, W) and (N, emb_ch) -> the same shape."""
        scale, shift = self.film(emb)[..., None, None].chunk(2, dim=1)
        h = self.conv1(F.silu(x)) * (1 + scale) + shift
        return x + self.conv2(F.silu(h))


class Stage(nn.ModuleList):
    """The ``FilmBlock``s of one level, one after the other."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """(N, num_feat, H, W) and (N, emb_ch) -> the same shape."""
        for block in self:
            x = block(x, emb)
        return x


@ARCH_REGISTRY.register()
class UnshuffleUNet(nn.Module):
    """Denoiser ``(x_t, t) -> prediction`` (eps, v or x0, as it was trained).

    The image is taken apart by ``unshuffle`` first, so that the widest feature maps have a
    quarter of its pixels. Without normalisation: a layer's output does not depend on the size of
    the image, so that windows and whole images agree.

    Args:
        num_in_ch (int): channels of x_t. Default: 3.
        num_out_ch (int): channels of the prediction. Default: 3.
        unshuffle (int): side of the pixel blocks that become channels. Default: 2.
        num_feat (sequence of int): widths per level, fine to coarse; each level halves the side.
            Default: (64, 128, 192).
        num_block (int): residual blocks per level on the way down, and again on the way up.
            Default: 2.
        emb_ch (int): width of the timestep's embedding. Default: 128.

    Attributes:
        stride: both sides of x_t must be multiples of it.
    """

    def __init__(
        self,
        num_in_ch: Count = 3,
        num_out_ch: Count = 3,
        unshuffle: Count = 2,
        num_feat: Annotated[Sequence[Count], entries(1)] = (64, 128, 192),
        num_block: Count = 2,
        emb_ch: Count = 128,
    ) -> None:
        super().__init__()
        self.check(
            'UnshuffleUNet', {'num_block': num_block, 'unshuffle': unshuffle, 'emb_ch': emb_ch}
        )
        self.unshuffle, self.emb_ch = unshuffle, emb_ch
        self.stride = unshuffle * 2 ** (len(num_feat) - 1)
        self.embed = nn.Sequential(nn.Linear(emb_ch, emb_ch), nn.SiLU(), nn.Linear(emb_ch, emb_ch))

        def stage(width: int) -> Stage:
            return Stage(FilmBlock(width, emb_ch) for _ in range(num_block))

        self.head = nn.Conv2d(num_in_ch * unshuffle**2, num_feat[0], 3, 1, 1)
        self.down = nn.ModuleList(stage(width) for width in num_feat)
        self.up = nn.ModuleList(stage(width) for width in num_feat[:-1])
        pairs = list(zip(num_feat[:-1], num_feat[1:], strict=True))
        self.shrink = nn.ModuleList(nn.Conv2d(fine, coarse, 2, 2) for fine, coarse in pairs)
        self.grow = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, 2) for fine, coarse in pairs)
        self.merge = nn.ModuleList(nn.Conv2d(2 * fine, fine, 1) for fine, _ in pairs)
        self.tail = nn.Conv2d(num_feat[0], num_out_ch * unshuffle**2, 3, 1, 1)

    @classmethod
    def check(cls, where: str, block: Mapping[str, Any]) -> None:
        """Refuse arguments that the constructor would; ValueError names the option."""
        for key in ('num_block', 'unshuffle'):
            check_int(f'{where}:{key}', block[key], 1)
        if block['emb_ch'] % 2:
            raise ValueError(f'{where}:emb_ch is {block["emb_ch"]}, but must be even.')

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """(N,C,H,W) about [-1,1] and (N,) timesteps, fractions allowed -> (N,num_out_ch,H,W).

        ValueError if a side is no multiple of ``stride``.
        """
        check_sides(x_t, self.stride)
        emb = F.silu(self.embed(timestep_embedding(t, self.emb_ch).to(x_t.dtype)))
        x = self.head(F.pixel_unshuffle(x_t, self.unshuffle))
        skips = []
        for level, stage in enumerate(self.down):
            if level:
                skips.append(x)
                x = self.shrink[level - 1](x)
            x = stage(x, emb)
        for level in reversed(range(len(self.up))):
            x = self.merge[level](torch.cat([self.grow[level](x), skips.pop()], dim=1))
            x = self.up[level](x, emb)
        return F.pixel_shuffle(self.tail(F.silu(x)), self.unshuffle)
