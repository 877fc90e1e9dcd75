"""The U-Net of "Diffusion Models Beat GANs on Image Synthesis" (ADM), as a noise predictor.

State-dict keys and numbers are those of OpenAI's guided-diffusion (MIT licence), so that its
checkpoints load strictly; the code is written anew. Class conditioning, 16-bit training and
gradient checkpointing are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor

from defsr.archs.adm_blocks import (
    NUM_GROUPS,
    AttentionBlock,
    Downsample,
    ResBlock,
    Resize,
    TimestepSequential,
    Upsample,
    conv3x3,
    group_norm,
    timestep_embedding,
    zeroed,
)
from defsr.utils.checks import check_int
from defsr.utils.kinds import Count, Positive, Share

CHANNEL_MULT = {
    64: (1, 2, 3, 4),
    128: (1, 1, 2, 3, 4),
    256: (1, 1, 2, 2, 4, 4),
    512: (0.5, 1, 1, 2, 2, 4, 4),
}


@ARCH_REGISTRY.register()
class ADMUNet(nn.Module):
    """Denoiser ``(x_t, t) -> eps`` (and variance) with the layout of guided-diffusion.

    The defaults are those of ``256x256_diffusion_uncond.pt``: 552.8 million parameters.

    Args:
        image_size (int): side the model was trained at; translates ``attention_resolutions``
            and picks the default ``channel_mult``. The input may have another size. Default: 256.
        num_in_ch (int): channels of x_t. Default: 3.
        num_out_ch (int): twice num_in_ch with a learned variance, else num_in_ch. Default: 6.
        num_feat (int): base width, a multiple of 32. Default: 256.
        num_res_block (int): residual blocks per level. Default: 2.
        attention_resolutions (sequence of int): feature sides at ``image_size`` that get
            attention, divisors of it. Default: (32, 16, 8).
        channel_mult (sequence of number | None): width of each level in units of ``num_feat``,
            fine to coarse. None: the published table for image_size 64, 128, 256 or 512.
        num_head_channels (int | None): channels per attention head; None: use ``num_heads``.
            Default: 64.
        num_heads (int): heads where ``num_head_channels`` is None. Default: 4.
        use_scale_shift_norm (bool): the timestep scales and shifts the normalised features,
            else it is added. Default: True.
        resblock_updown (bool): resize inside residual blocks, else by a strided convolution
            and by nearest neighbour with a convolution. Default: True.
        use_new_attention_order (bool): split query, key and value before the heads. Default:
            False, as in the published weights.
        dropout (float): in residual blocks, 0..1. Default: 0.

    Raises:
        ValueError: for sizes that do not fit together.
    """

    def __init__(
        self,
        image_size: Count = 256,
        num_in_ch: Count = 3,
        num_out_ch: Count = 6,
        num_feat: Count = 256,
        num_res_block: Count = 2,
        attention_resolutions: Sequence[Count] = (32, 16, 8),
        channel_mult: Sequence[Positive] | None = None,
        num_head_channels: Count | None = 64,
        num_heads: Count = 4,
        use_scale_shift_norm: bool = True,
        resblock_updown: bool = True,
        use_new_attention_order: bool = False,
        dropout: Share = 0.0,
    ) -> None:
        super().__init__()
        check_int('num_res_block', num_res_block, 1)
        widths = _level_widths(image_size, num_feat, channel_mult)
        make = _BlockFactory(
            emb_ch=4 * num_feat,
            num_res_block=num_res_block,
            attention_levels=_attention_levels(image_size, attention_resolutions, len(widths)),
            num_head_channels=num_head_channels,
            num_heads=num_heads,
            use_scale_shift_norm=use_scale_shift_norm,
            resblock_updown=resblock_updown,
            use_new_attention_order=use_new_attention_order,
            dropout=dropout,
        )
        self.num_in_ch = num_in_ch
        self.num_feat = num_feat
        self.num_level = len(widths)
        self.time_embed = nn.Sequential(
            nn.Linear(num_feat, make.emb_ch), nn.SiLU(), nn.Linear(make.emb_ch, make.emb_ch)
        )
        first = TimestepSequential(conv3x3(num_in_ch, widths[0]))
        self.input_blocks, skip_widths = make.encoder(first, widths)
        self.middle_block = make.middle(widths[-1])
        self.output_blocks = make.decoder(widths, skip_widths)
        last = conv3x3(widths[0], num_out_ch)
        self.out = nn.Sequential(group_norm(widths[0]), nn.SiLU(), zeroed(last))

    @classmethod
    def check(cls, where: str, block: Mapping[str, Any]) -> None:
        """Refuse levels that do not fit together, as the constructor does."""
        check_int(f'{where}:num_res_block', block['num_res_block'], 1)
        size = block['image_size']
        widths = _level_widths(size, block['num_feat'], block['channel_mult'])
        _attention_levels(size, block['attention_resolutions'], len(widths))

    @property
    def stride(self) -> int:
        """H and W of the input must be multiples of this."""
        return 2 ** (self.num_level - 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Predict the noise in ``x`` at timesteps ``t``.

        Args:
            x: (N,num_in_ch,H,W), about [-1, 1] plus noise; H and W multiples of ``stride``.
            t: (N,), timesteps, fractional ones allowed.

        Returns:
            (N,num_out_ch,H,W): the noise, then, if learned, the variance head.

        Raises:
            ValueError: for another shape.
        """
        self._check(x, t)
        emb = self.time_embed(timestep_embedding(t, self.num_feat).to(x.dtype))
        skips = []
        h = x
        for block in self.input_blocks:
            h = block(h, emb)
            skips.append(h)
        h = self.middle_block(h, emb)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), emb)
        return self.out(h)

    def _check(self, x: Tensor, t: Tensor) -> None:
        if x.ndim != 4 or x.shape[1] != self.num_in_ch:
            raise ValueError(f'x is {tuple(x.shape)}, but must be (N, {self.num_in_ch}, H, W).')
        if x.shape[2] % self.stride or x.shape[3] % self.stride:
            raise ValueError(
                f'x is {x.shape[2]}x{x.shape[3]} (HxW), but both sides must be multiples of '
                f'{self.stride}, the stride of this network. Pad it, or use fewer levels '
                '(channel_mult).'
            )
        if t.shape != x.shape[:1]:
            raise ValueError(f't is {tuple(t.shape)}, but must be ({len(x)},), one per sample.')


@dataclass(frozen=True)
class _BlockFactory:
    """Turns the constructor's switches into blocks, so that each part of the net is a loop."""

    emb_ch: int
    num_res_block: int
    attention_levels: frozenset[int]
    num_head_channels: int | None
    num_heads: int
    use_scale_shift_norm: bool
    resblock_updown: bool
    use_new_attention_order: bool
    dropout: float

    def residual(self, in_ch: int, out_ch: int, resize: Resize = 'none') -> ResBlock:
        return ResBlock(in_ch, out_ch, self.emb_ch, resize, self.use_scale_shift_norm, self.dropout)

    def attention(self, num_ch: int) -> AttentionBlock:
        per_head = self.num_head_channels
        if num_ch % (per_head or self.num_heads):
            option = 'num_head_channels' if per_head else 'num_heads'
            raise ValueError(
                f'A level has {num_ch} channels, but they must be a multiple of '
                f'{option}={per_head or self.num_heads}. Change it, num_feat or channel_mult.'
            )
        heads = num_ch // per_head if per_head else self.num_heads
        return AttentionBlock(num_ch, heads, self.use_new_attention_order)

    def resized(self, num_ch: int, how: Resize) -> nn.Module:
        if self.resblock_updown:
            return self.residual(num_ch, num_ch, how)
        return Downsample(num_ch) if how == 'down' else Upsample(num_ch)

    def step(self, in_ch: int, out_ch: int, level: int) -> list[nn.Module]:
        attention = [self.attention(out_ch)] if level in self.attention_levels else []
        return [self.residual(in_ch, out_ch), *attention]

    def encoder(
        self, first: TimestepSequential, widths: Sequence[int]
    ) -> tuple[nn.ModuleList, list[int]]:
        blocks, ch = nn.ModuleList([first]), widths[0]
        skip_widths = [ch]
        for level, width in enumerate(widths):
            for _ in range(self.num_res_block):
                blocks.append(TimestepSequential(*self.step(ch, width, level)))
                ch = width
                skip_widths.append(ch)
            if level < len(widths) - 1:
                blocks.append(TimestepSequential(self.resized(ch, 'down')))
                skip_widths.append(ch)
        return blocks, skip_widths

    def middle(self, num_ch: int) -> TimestepSequential:
        return TimestepSequential(
            self.residual(num_ch, num_ch), self.attention(num_ch), self.residual(num_ch, num_ch)
        )

    def decoder(self, widths: Sequence[int], skip_widths: list[int]) -> nn.ModuleList:
        blocks, ch, skip_widths = nn.ModuleList(), widths[-1], list(skip_widths)
        for level in reversed(range(len(widths))):
            for i in range(self.num_res_block + 1):
                layers = self.step(ch + skip_widths.pop(), widths[level], level)
                ch = widths[level]
                if level and i == self.num_res_block:
                    layers.append(self.resized(ch, 'up'))
                blocks.append(TimestepSequential(*layers))
        return blocks


def _level_widths(
    image_size: int, num_feat: int, channel_mult: Sequence[float] | None
) -> list[int]:
    if channel_mult is None and image_size not in CHANNEL_MULT:
        raise ValueError(
            f'image_size is {image_size}, which has no published channel_mult '
            f'(only {sorted(CHANNEL_MULT)} have). Set channel_mult.'
        )
    if channel_mult is not None and len(channel_mult) == 0:
        raise ValueError('channel_mult is empty, but must name at least one level.')
    widths = [int(mult * num_feat) for mult in channel_mult or CHANNEL_MULT[image_size]]
    for width in (num_feat, *widths):
        if width < NUM_GROUPS or width % NUM_GROUPS:
            raise ValueError(
                f'A level has {width} channels (num_feat={num_feat} times channel_mult), but '
                f'all must be multiples of {NUM_GROUPS}. Change num_feat or channel_mult.'
            )
    return widths


def _attention_levels(
    image_size: int, resolutions: Sequence[int], num_level: int
) -> frozenset[int]:
    """Feature sides at ``image_size`` -> levels, 0 being full resolution."""
    sides = {image_size / 2**level: level for level in range(num_level)}
    for side in resolutions:
        if side not in sides:
            raise ValueError(
                f'attention_resolutions has {side}, but the feature sides at '
                f'image_size={image_size} are {[int(s) for s in sides]}.'
            )
    return frozenset(sides[side] for side in resolutions)
