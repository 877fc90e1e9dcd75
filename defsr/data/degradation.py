"""How a low-resolution input is made from a high-resolution image."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from defsr.images.levels import levels_of, round_to_8_bit
from defsr.ops.resize import downsample_bicubic

Degradation = Literal['matlab', 'pil']
DEGRADATIONS = ('matlab', 'pil')


def crop_to_multiple(image: Tensor, scale: int) -> Tensor:
    """(..., H, W) -> the top left part whose sides are multiples of ``scale``."""
    height, width = image.shape[-2:]
    return image[..., : height - height % scale, : width - width % scale]


def degrade(gt: Tensor, scale: int, degradation: Degradation = 'matlab') -> Tensor:
    """(3, H, W) RGB in [0, 1] -> (3, H/scale, W/scale), clamped and rounded to 8 bit.

    Args:
        gt: the whole image, not a crop of it: the border is treated unlike the inside.
        scale: divides both sides.
        degradation: ``matlab``, MATLAB's bicubic (BasicSR's ``imresize``), or ``pil``, PIL's
            (which rounds after each of its two passes).

    Raises:
        ValueError: if a side is no multiple of ``scale``.
    """
    if degradation == 'matlab':
        return round_to_8_bit(downsample_bicubic(gt.unsqueeze(0), scale).squeeze(0))
    height, width = gt.shape[-2:]
    if height % scale or width % scale:
        raise ValueError(f'gt is {height}x{width} (HxW), no multiple of scale={scale}.')
    pixels = levels_of(gt).to(torch.uint8).permute(1, 2, 0).numpy()
    small = Image.fromarray(pixels).resize((width // scale, height // scale), Image.BICUBIC)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1).float().div(255).contiguous()


def make_lq(
    image: Tensor, scale: int, degradation: Degradation, path: str
) -> tuple[Tensor, Tensor]:
    """A whole image -> it cut to a multiple of ``scale``, and the low-resolution image of that.

    Args:
        image: (3, H, W) RGB in [0, 1].
        scale, degradation: as of ``degrade``.
        path: of the image, for the message.

    Raises:
        ValueError: if a side is below ``scale``.
    """
    image = crop_to_multiple(image, scale)
    if 0 in image.shape:
        raise ValueError(f'{path} has a side below scale={scale}. Remove it.')
    return image, degrade(image, scale, degradation)
