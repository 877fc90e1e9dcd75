"""TTSR's main network: cross-scale feature integration (CSFI) of textures at three levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from defsr.archs.layers import conv3, residual_blocks
from defsr.archs.levels import LEVEL_FACTORS, check_channels
from defsr.ops.exporting import is_exporting
from defsr.utils.kinds import Count, Whole, entries

MATRIX_SIDE = 128  # up to this side bicubic upsampling is a product with matrices


@ARCH_REGISTRY.register()
class TTSRAggregator(nn.Module):
    """Merges textures into the features of the LR image, coarse to fine (TTSR; DEF Eq. 7).

    Args:
        num_in_ch (int): channels of the LR image. Default: 3.
        num_out_ch (int): channels of the result. Default: 3.
        num_feat (int): width. Default: 64.
        num_block (list): residual blocks of the shallow extractor and of the stages at 1/4, 1/2
            and 1/1 of the HR size. Default: [16, 16, 8, 4], TTSR's.
        res_scale (float): factor on each residual branch. Default: 1.
        num_ch (dict): level -> channels of the textures.
        use_feat_de (bool): DEF: the features of the enhanced input go in beside the textures, so
            that generated detail remains where the reference has no match. Default: False, TTSR.
        use_soft_attention (bool): TTSR: multiply the merged textures by the confidence, carried
            to finer levels by bicubic interpolation. Default: True.
    """

    def __init__(
        self,
        num_in_ch: Count = 3,
        num_out_ch: Count = 3,
        num_feat: Count = 64,
        num_block: Sequence[Whole] = (16, 16, 8, 4),
        res_scale: float = 1.0,
        num_ch: Mapping[str, int] | None = None,
        use_feat_de: bool = False,
        use_soft_attention: bool = True,
    ) -> None:
        super().__init__()
        where = 'network_g:aggregator'
        self.check(where, {'num_block': num_block, 'num_ch': num_ch})
        num_ch = check_channels(where, num_ch)
        self.use_feat_de = use_feat_de
        self.use_soft_attention = use_soft_attention
        texture_ch = {level: ch * (1 + use_feat_de) for level, ch in num_ch.items()}

        def blocks(number: int) -> nn.Sequential:
            return residual_blocks(number, num_feat, res_scale)

        self.shallow_head = conv3(num_in_ch, num_feat)
        self.shallow_body = nn.Sequential(blocks(num_block[0]), conv3(num_feat, num_feat))
        self.merge_quarter = conv3(num_feat + texture_ch['relu3_1'], num_feat)
        self.merge_half = conv3(num_feat + texture_ch['relu2_1'], num_feat)
        self.merge_full = conv3(num_feat + texture_ch['relu1_1'], num_feat)
        self.up_half, self.up_full = _upsampler(num_feat), _upsampler(num_feat)
        self.exchange_half = CrossScaleExchange(num_feat, num_scale=2)
        self.exchange_full = CrossScaleExchange(num_feat, num_scale=3)

        def stage(number: int) -> nn.Sequential:
            return nn.Sequential(blocks(number), conv3(num_feat, num_feat))

        self.body_quarter = stage(num_block[1])
        self.body_half = nn.ModuleList(stage(num_block[2]) for _ in range(2))
        self.body_full = nn.ModuleList(stage(num_block[3]) for _ in range(3))
        self.tail_up = nn.ModuleList(nn.Conv2d(num_feat, num_feat, 1) for _ in range(2))
        self.tail_merge = conv3(3 * num_feat, num_feat)
        self.tail = nn.Sequential(
            conv3(num_feat, num_feat // 2), nn.Conv2d(num_feat // 2, num_out_ch, 1)
        )

    @classmethod
    def check(cls, where: str, block: Mapping[str, Any]) -> None:
        """Refuse arguments that the constructor would; ValueError names the option."""
        entries(4, 4)(f'{where}:num_block', block['num_block'])
        if {*LEVEL_FACTORS} - {*check_channels(where, block['num_ch'])}:
            raise ValueError(f'{where}:num_ch must have all of {[*LEVEL_FACTORS]}.')

    @property
    def last_layer(self) -> nn.Conv2d:
        """What the result comes out of; a skip connection starts it at zero."""
        last = self.tail[-1]
        assert isinstance(last, nn.Conv2d)
        return last

    def forward(
        self,
        lq: Tensor,
        texture: Mapping[str, Tensor],
        confidence: Tensor,
        feat_de: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Merge the textures.

        Args:
            lq: (N, 3, h, w) RGB in [0, 1].
            texture: level -> (N, C, f*h, f*w), transferred textures.
            confidence: (N, h, w).
            feat_de: level -> (N, C, f*h, f*w); needed if ``use_feat_de``.

        Returns:
            (N, num_out_ch, 4h, 4w), not clamped (TTSR clamps here, which stops gradients).
        """
        side = feat_de if self.use_feat_de else None
        gate = confidence.unsqueeze(1)

        quarter = F.relu(self.shallow_head(lq * 2 - 1))
        quarter = quarter + self.shallow_body(quarter)
        quarter = self._merge(self.merge_quarter, quarter, 'relu3_1', texture, side, gate)
        quarter = quarter + self.body_quarter(quarter)

        half = F.relu(self.up_half(quarter))
        half = self._merge(self.merge_half, half, 'relu2_1', texture, side, gate)
        mixed = self.exchange_half([quarter, half])
        quarter, half = (
            x + body(m) for x, body, m in zip((quarter, half), self.body_half, mixed, strict=True)
        )

        full = F.relu(self.up_full(half))
        full = self._merge(self.merge_full, full, 'relu1_1', texture, side, gate)
        scales = (quarter, half, full)
        mixed = self.exchange_full(scales)
        quarter, half, full = (
            x + body(m) for x, body, m in zip(scales, self.body_full, mixed, strict=True)
        )

        quarter = F.relu(upsampled_conv(self.tail_up[0], quarter, 4))
        half = F.relu(upsampled_conv(self.tail_up[1], half, 2))
        return self.tail(F.relu(conv_of_parts(self.tail_merge, (full, quarter, half))))

    def _merge(
        self,
        conv: nn.Conv2d,
        x: Tensor,
        level: str,
        texture: Mapping[str, Tensor],
        side: Mapping[str, Tensor] | None,
        gate: Tensor,
    ) -> Tensor:
        parts = [x, texture[level]] if side is None else [x, texture[level], side[level]]
        merged = conv_of_parts(conv, parts)
        if self.use_soft_attention:
            merged = merged * upsample(gate, x.shape[-1] // gate.shape[-1])
        return x + merged


class CrossScaleExchange(nn.Module):
    """TTSR's CSFI: every scale receives every other, resampled, and merges them.

    Args:
        num_feat (int): width of each scale.
        num_scale (int): number of scales, each twice the size of the one before.
    """

    def __init__(self, num_feat: int, num_scale: int) -> None:
        super().__init__()
        self.num_scale = num_scale
        self.path = nn.ModuleDict()
        for source in range(num_scale):
            for target in range(num_scale):
                if source != target:
                    self.path[f'{source}_{target}'] = _exchange_path(num_feat, source, target)
        self.merge = nn.ModuleList(conv3(num_scale * num_feat, num_feat) for _ in range(num_scale))

    def forward(self, scales: Sequence[Tensor]) -> list[Tensor]:
        """[(N,C,h,w), (N,C,2h,2w), ...] coarse to fine -> the same shapes."""
        out = []
        for target in range(self.num_scale):
            parts = [scales[target]]
            for source in range(self.num_scale):
                if source != target:
                    parts.append(self._carry(scales[source], source, target))
            merge = self.merge[target]
            assert isinstance(merge, nn.Conv2d)
            out.append(F.relu(conv_of_parts(merge, parts)))
        return out

    def _carry(self, x: Tensor, source: int, target: int) -> Tensor:
        """One scale resampled to another."""
        path = self.path[f'{source}_{target}']
        if source > target:
            return path(x)
        assert isinstance(path, nn.Sequential)
        conv, relu = path
        return relu(upsampled_conv(conv, x, 2 ** (target - source)))


def _exchange_path(num_feat: int, source: int, target: int) -> nn.Sequential:
    """1x1 convolution beside the upsampling, or one stride-2 convolution per halving."""
    if source < target:
        return nn.Sequential(nn.Conv2d(num_feat, num_feat, 1), nn.ReLU())
    layers = []
    for _ in range(source - target):
        layers += [nn.Conv2d(num_feat, num_feat, 3, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*layers)


def _upsampler(num_feat: int) -> nn.Sequential:
    return nn.Sequential(conv3(num_feat, 4 * num_feat), nn.PixelShuffle(2))


def conv_of_parts(conv: nn.Conv2d, parts: Sequence[Tensor]) -> Tensor:
    """``conv(torch.cat(parts, 1))`` without the concatenation.

    Saves the copies, and the gradient of parts that ask for none.

    Args:
        conv: 3x3 with padding 1, its input channels those of all parts together.
        parts: (N, C_i, H, W) each.

    Returns:
        (N, C_out, H, W).
    """
    weights = conv.weight.split([part.shape[1] for part in parts], dim=1)
    out = F.conv2d(parts[0], weights[0], conv.bias, padding=1)
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        out += F.conv2d(part, weight, padding=1)
    return out


def upsampled_conv(conv: nn.Module, x: Tensor, factor: int) -> Tensor:
    """``conv(upsample(x, factor))`` of a 1x1 convolution: (N,C,h,w) -> (N,C',factor*h,factor*w).

    The two commute, since the interpolation's weights sum to one; before it the convolution
    costs factor^2 times less.
    """
    return upsample(conv(x), factor)


def upsample(x: Tensor, factor: int) -> Tensor:
    """torch's bicubic (a = -0.75), as in TTSR: (N,C,h,w) -> (N,C,factor*h,factor*w).

    As two products with banded matrices, whose backward pass is much cheaper than that of
    ``F.interpolate``; larger maps, where the zeros in them would cost more, go through it.
    """
    if factor == 1:
        return x
    num, channels, height, width = x.shape
    if is_exporting() or max(height, width) > MATRIX_SIDE:
        return F.interpolate(x, scale_factor=float(factor), mode='bicubic', align_corners=False)
    rows, columns = (_bicubic_rows(x, side, factor) for side in (height, width))
    wide = columns @ x.permute(0, 2, 3, 1)
    tall = rows @ wide.reshape(num, height, -1)
    return tall.view(num, factor * height, factor * width, channels).permute(0, 3, 1, 2)


def _bicubic_rows(like: Tensor, length: int, factor: int) -> Tensor:
    """torch's bicubic upsampling of one dimension: (factor * length, length)."""
    eye = torch.eye(length, dtype=like.dtype, device=like.device).view(1, length, length, 1)
    size = (factor * length, 1)
    return F.interpolate(eye, size=size, mode='bicubic', align_corners=False)[0, :, :, 0].T
