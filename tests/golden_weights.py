"""Weights and images that a formula gives, so that golden numbers need no file of them."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from defsr.utils.weights import load_weights


def formula(name: str, shape: torch.Size, gain: float = 1.0) -> Tensor:
    """gain * sqrt(2 / fan_in) * sin(0.7 k + phase of the name), float64; 0.1 of it for vectors."""
    k = torch.arange(shape.numel(), dtype=torch.float64)
    fan_in = shape[1:].numel() if len(shape) > 1 else 200
    phase = zlib.crc32(name.encode()) % 1000
    return (gain * (2 / fan_in) ** 0.5 * (0.7 * k + phase).sin()).view(shape)


def fill(state: Mapping[str, Tensor], gain: float = 1.0) -> dict[str, Tensor]:
    """A state dict with every floating tensor by its name; variances and gains near 1."""
    made = {}
    for name, value in state.items():
        made[name] = value
        if value.is_floating_point():
            made[name] = formula(name, value.shape, gain).to(value)
            if name.endswith('running_var') or ('bn' in name and name.endswith('weight')):
                made[name] = made[name] * 3 + 1
    return made


def image(*shape: int) -> Tensor:
    """Smooth and then not so smooth, in [0, 1], float64."""
    k = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return ((0.37 * k).sin() * 0.3 + (0.011 * k).cos() * 0.2 + 0.5).view(shape)


def assert_loads_published(net: nn.Module, state: Mapping[str, Tensor], folder: Path) -> None:
    """With the prefix of parallel training, into ``net``; its class takes no others for its own."""
    own = net.state_dict()
    torch.save({f'module.{name}': value for name, value in state.items()}, folder / 'o.pth')
    load_weights(net, folder / 'o.pth', option='path:pretrain_network_g', network='network_g')
    for other in (own, {'conv_first.weight': torch.zeros(1)}):
        with pytest.raises(KeyError):
            net.official_block(other)
        with pytest.raises(KeyError):
            net.from_official(other)


def layout(state: Mapping[str, Tensor]) -> tuple[int, str]:
    """Number of tensors and SHA-256 of the sorted lines ``name shape``."""
    lines = sorted(f'{name} {tuple(value.shape)}' for name, value in state.items())
    return len(lines), hashlib.sha256('\n'.join(lines).encode()).hexdigest()
