"""Building blocks of ``ADMUNet``, with guided-diffusion's parameter names."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

NUM_GROUPS = 32
MAX_PERIOD = 10000

Resize = Literal['none', 'down', 'up']


class GroupNorm(nn.GroupNorm):
    """PyTorch's, but a group may have a single value (one tiny image, few channels)."""

    def forward(self, x: Tensor) -> Tensor:
        """(N,C,...) -> the same shape."""
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


def group_norm(num_ch: int) -> GroupNorm:
    """The normalisation used throughout: 32 groups."""
    return GroupNorm(NUM_GROUPS, num_ch)


def conv3x3(in_ch: int, out_ch: int) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size."""
    return nn.Conv2d(in_ch, out_ch, 3, padding=1)


def zeroed(module: nn.Module) -> nn.Module:
    """Set all parameters to zero: the branch that ends here starts as if absent."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class TimestepSequential(nn.Sequential):
    """A sequence that hands the timestep embedding to the residual blocks in it."""

    # its layers come one after the other, but it is called as a ResBlock is
    def forward(self, x: Tensor, emb: Tensor) -> Tensor:  # type: ignore[override]
        """(N,C,H,W) and (N,E) -> (N,C',H',W')."""
        for layer in self:
            x = layer(x, emb) if isinstance(layer, ResBlock) else layer(x)
        return x


class ResBlock(nn.Module):
    """Residual block with a timestep embedding, optionally resizing by 2.

    Args:
        in_ch: input channels.
        out_ch: output channels.
        emb_ch: channels of the embedding.
        resize: ``none``, ``down`` (mean of 2x2) or ``up`` (nearest).
        use_scale_shift_norm: how the embedding enters, see ``ADMUNet``.
        dropout: probability.
    """

    def __init__(
        self,
        in_ch: int,
        out_ch: int,
        emb_ch: int,
        resize: Resize,
        use_scale_shift_norm: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        resizers = {'none': nn.Identity, 'down': _halve, 'up': _double}
        self.resize = resizers[resize]()
        self.use_scale_shift_norm = use_scale_shift_norm
        self.in_layers = nn.Sequential(group_norm(in_ch), nn.SiLU(), conv3x3(in_ch, out_ch))
        num_emb_out = 2 * out_ch if use_scale_shift_norm else out_ch
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_ch, num_emb_out))
        self.out_layers = nn.Sequential(
            group_norm(out_ch), nn.SiLU(), nn.Dropout(dropout), zeroed(conv3x3(out_ch, out_ch))
        )
        same = in_ch == out_ch
        self.skip_connection = nn.Identity() if same else nn.Conv2d(in_ch, out_ch, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """(N,in_ch,H,W) and (N,emb_ch) -> (N,out_ch,H',W')."""
        norm, activation, conv = self.in_layers
        h = conv(self.resize(activation(norm(x))))
        shift = self.emb_layers(emb)[..., None, None]
        if self.use_scale_shift_norm:
            scale, shift = shift.chunk(2, dim=1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + shift)
        return self.skip_connection(self.resize(x)) + h


class AttentionBlock(nn.Module):
    """Self-attention over all positions, with a residual connection.

    Args:
        num_ch: channels, a multiple of ``num_heads``.
        num_heads: attention heads.
        use_new_attention_order: the channels of ``qkv`` are (3, heads, C) instead of
            (heads, 3, C).
    """

    def __init__(self, num_ch: int, num_heads: int, use_new_attention_order: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.use_new_attention_order = use_new_attention_order
        self.norm = group_norm(num_ch)
        self.qkv = nn.Conv1d(num_ch, 3 * num_ch, 1)
        self.proj_out = zeroed(nn.Conv1d(num_ch, num_ch, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N,C,H,W) -> (N,C,H,W)."""
        flat = x.flatten(2)
        qkv = self.qkv(self.norm(flat))
        if self.use_new_attention_order:
            qkv = qkv.unflatten(1, (3, self.num_heads, -1)).transpose(1, 2)
        else:
            qkv = qkv.unflatten(1, (self.num_heads, 3, -1))
        # Contiguous channels let PyTorch pick a kernel that does not store all pairs.
        query, key, value = qkv.transpose(3, 4).contiguous().unbind(2)
        h = F.scaled_dot_product_attention(query, key, value)
        h = h.transpose(2, 3).flatten(1, 2)
        return (flat + self.proj_out(h)).view_as(x)


class Downsample(nn.Module):
    """Half the size by a strided 3x3 convolution. ``num_ch``: channels in and out."""

    def __init__(self, num_ch: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(num_ch, num_ch, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N,C,H,W) -> (N,C,H/2,W/2)."""
        return self.op(x)


class Upsample(nn.Module):
    """Twice the size by nearest neighbour and a 3x3 convolution. ``num_ch``: in and out."""

    def __init__(self, num_ch: int) -> None:
        super().__init__()
        self.conv = conv3x3(num_ch, num_ch)

    def forward(self, x: Tensor) -> Tensor:
        """(N,C,H,W) -> (N,C,2H,2W)."""
        return self.conv(F.interpolate(x, scale_factor=2, mode='nearest'))


def timestep_embedding(t: Tensor, num_ch: int) -> Tensor:
    """Sinusoids of the timestep, cosines first: (N,) -> (N,num_ch) float32, num_ch even."""
    half = num_ch // 2
    steps = torch.arange(half, dtype=torch.float32, device=t.device)
    angle = t.float()[:, None] * torch.exp(-math.log(MAX_PERIOD) * steps / half)
    return torch.cat([angle.cos(), angle.sin()], dim=1)


def _halve() -> nn.Module:
    return nn.AvgPool2d(2)


def _double() -> nn.Module:
    return nn.Upsample(scale_factor=2, mode='nearest')
