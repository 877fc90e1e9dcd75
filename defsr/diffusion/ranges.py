"""The one place where images change between [0, 1] and the diffusion model's [-1, 1]."""

from __future__ import annotations

from torch import Tensor


def to_signed(x: Tensor) -> Tensor:
    """[0, 1] -> [-1, 1], any shape."""
    return 2 * x - 1


def from_signed(x: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1], any shape, not clamped."""
    return (x + 1) / 2


def sigma_to_signed(sigma: float) -> float:
    """A noise standard deviation on the [0, 1] scale -> the same noise on the [-1, 1] scale."""
    return 2 * sigma
