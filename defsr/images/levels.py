"""From [0, 1] to the levels of an integer image: clamped, then rounded, never cut off."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def levels_of(x: Tensor, bit_depth: int = 8) -> Tensor:
    """Images in about [0, 1] -> whole numbers 0 .. 2^bit_depth - 1, in x's dtype."""
    return x.clamp(0, 1).mul(2**bit_depth - 1).round()


def to_levels(image: Tensor, bit_depth: int = 8) -> np.ndarray:
    """(C,H,W) or (1,C,H,W) in about [0, 1] -> (H,W,C) uint8 or uint16, or (H,W) if C = 1."""
    rounded = levels_of(image.detach().cpu().float(), bit_depth)
    rounded = rounded.reshape(rounded.shape[-3:]).permute(1, 2, 0)
    levels = rounded.numpy().astype(np.uint8 if bit_depth == 8 else np.uint16)
    return levels[..., 0] if levels.shape[-1] == 1 else levels


def from_levels(levels: np.ndarray) -> Tensor:
    """(H,W) or (H,W,C) uint8 or uint16 -> (1,C,H,W) float32 in [0, 1].

    Example:
        >>> from_levels(np.array([[0, 51, 255]], np.uint8))
        tensor([[[[0.0000, 0.2000, 1.0000]]]])
        >>> to_levels(_)
        array([[  0,  51, 255]], dtype=uint8)
    """
    top = np.float32(np.iinfo(levels.dtype).max)
    planes = np.atleast_3d(levels).transpose(2, 0, 1)
    image = np.empty(planes.shape, np.float32)  # the only copy: a photograph has gigabytes
    np.divide(planes, top, out=image, dtype=np.float32)
    return torch.from_numpy(image).unsqueeze(0)


def round_to_8_bit(x: Tensor) -> Tensor:
    """Clamp to [0, 1] and round to multiples of 1/255, as a saved image would be."""
    return levels_of(x) / 255
