"""Weights and images that look random and are given by a formula: golden numbers need no file."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import torch
from torch import Tensor


def noise(name: str, *shape: int) -> Tensor:
    """Uniform in [0, 1) by a well-known hash of the sine, float64."""
    k = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    phase = zlib.crc32(name.encode()) % 9973
    return (((k + phase) * 12.9898).sin() * 43758.5453).frac().abs().view(shape)


def noisy(state: Mapping[str, Tensor], gain: float = 1.0, **gains: float) -> dict[str, Tensor]:
    """A state dict with every tensor by its name: mean 0, and gain / fan_in as variance.

    ``mean`` and ``std`` stay. ``gains``: part of a name -> another gain for such tensors.
    """
    made = {}
    for name, value in state.items():
        if name.endswith(('mean', 'std')):
            made[name] = value
            continue
        own = next((g for part, g in gains.items() if part in name), gain)
        fan_in = value.shape[1:].numel() if value.ndim > 1 else 100
        spread = (12 * own / fan_in) ** 0.5
        made[name] = ((noise(name, *value.shape) - 0.5) * spread).to(value)
    return made


def scene(name: str, *shape: int) -> Tensor:
    """A picture (N, C, H, W) in [0, 1] with coarse and fine detail, float64."""
    num, channels, height, width = shape
    coarse = noise(f'{name} coarse', num, channels, height // 4 + 2, width // 4 + 2)
    coarse = coarse.repeat_interleave(4, 2).repeat_interleave(4, 3)[..., :height, :width]
    return 0.7 * coarse + 0.3 * noise(f'{name} fine', *shape)
