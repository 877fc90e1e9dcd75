"""Residual layers of windowed attention (Swin), DATSR's bodies."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.swin_transformer import SwinTransformerBlock

from defsr.archs.layers import conv3
from defsr.ops.padding import pad_reflect

MLP_RATIO = 2


class WindowedBody(nn.Module):
    """Layers of blocks of attention inside windows, every second one's shifted by half a window.

    Features whose sides are no multiples of the window are reflected up to them, and cut again.

    Args:
        num_feat: width, a multiple of all ``num_heads``.
        depths: blocks of each layer.
        num_heads: heads of each layer's attention.
        window_size: side of the windows, in positions.
        drop_path_rate: share of images, of the last block, that skip it in training; it grows
            from 0 in equal steps.
        use_checkpoint: whether layers are computed again on the way back, for less memory.
    """

    def __init__(
        self,
        num_feat: int,
        depths: Sequence[int],
        num_heads: Sequence[int],
        window_size: int,
        *,
        drop_path_rate: float,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.window_size, self.use_checkpoint = window_size, use_checkpoint
        rates = iter(torch.linspace(0, drop_path_rate, sum(depths)).tolist())
        self.norm_in = nn.LayerNorm(num_feat)
        self.layers = nn.ModuleList(
            WindowedLayer(num_feat, heads, window_size, [next(rates) for _ in range(depth)])
            for depth, heads in zip(depths, num_heads, strict=True)
        )
        self.norm_out = nn.LayerNorm(num_feat)

    def forward(self, x: Tensor) -> Tensor:
        """(N,C,H,W) -> the same, of any size."""
        height, width = x.shape[-2:]
        x = self.norm_in(pad_reflect(x, self.window_size).permute(0, 2, 3, 1))
        for layer in self.layers:
            if self.use_checkpoint and torch.is_grad_enabled():
                x = checkpoint(layer, x, use_reentrant=False)
            else:
                x = layer(x)
        return self.norm_out(x).permute(0, 3, 1, 2)[..., :height, :width]


class WindowedLayer(nn.Module):
    """Blocks and a convolution, added to what goes in; torchvision's blocks."""

    def __init__(
        self, num_feat: int, num_heads: int, window_size: int, drop_path_rates: Sequence[float]
    ) -> None:
        super().__init__()
        blocks = []
        for number, rate in enumerate(drop_path_rates):
            shift = window_size // 2 if number % 2 else 0
            block = SwinTransformerBlock(
                num_feat,
                num_heads,
                [window_size] * 2,
                [shift] * 2,
                mlp_ratio=MLP_RATIO,
                stochastic_depth_prob=rate,
            )
            index = block.attn.relative_position_index
            del block.attn.relative_position_index  # it is no weight: in no checkpoint
            block.attn.register_buffer('relative_position_index', index, persistent=False)
            blocks.append(block)
        self.blocks = nn.Sequential(*blocks)
        self.conv = conv3(num_feat, num_feat)

    def forward(self, x: Tensor) -> Tensor:
        """(N,H,W,C) -> the same, sides multiples of the window."""
        return x + self.conv(self.blocks(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
