"""The one place where images change between [0, 1] and the diffusion model's [-1, 1]."""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor

Sigma = TypeVar('Sigma', float, Tensor)


def to_signed(x: Tensor) -> Tensor:
    """[0, 1] -> [-1, 1], any shape."""
    return 2 * x - 1


def from_signed(x: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1], any shape, not clamped."""
    return (x + 1) / 2


def sigma_to_signed(sigma: Sigma) -> Sigma:
    """A noise standard deviation on the [0, 1] scale -> the same noise on the [-1, 1] scale."""
    return 2 * sigma


def alpha_bar_of(sigma: Sigma) -> Sigma:
    """The alpha_bar of a state whose noise, divided by the image's share, is sigma on [0, 1]."""
    return 1 / (1 + sigma_to_signed(sigma) ** 2)
