"""From [0, 1] to the levels of an integer image: clamped, then rounded, never cut off."""

from __future__ import annotations

from torch import Tensor


def levels_of(x: Tensor, bit_depth: int = 8) -> Tensor:
    """Images in about [0, 1] -> whole numbers 0 .. 2^bit_depth - 1, in x's dtype."""
    return x.clamp(0, 1).mul(2**bit_depth - 1).round()


def round_to_8_bit(x: Tensor) -> Tensor:
    """Clamp to [0, 1] and round to multiples of 1/255, as a saved image would be."""
    return levels_of(x) / 255
