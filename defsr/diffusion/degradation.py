"""How a low-resolution image comes from a high-resolution one: one object for all who ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from defsr.diffusion.operators import BicubicDownsample
from defsr.images.levels import from_levels, round_to_8_bit, to_levels
from defsr.ops.resize import Border
from defsr.utils.checks import check_choice, check_divisible

DEGRADATIONS = ('matlab', 'pil')
BORDERS: dict[str, Border] = {'matlab': 'symmetric', 'pil': 'pil'}


@dataclass(frozen=True)
class Degradation:
    """The degradation that data are made with, references softened with and enhancers invert.

    Args:
        name: ``matlab``, MATLAB's bicubic (BasicSR's ``imresize``), or ``pil``, PIL's, which
            rounds after each of its two passes.
        scale: HR to LR, >= 1.
        option: what the user sets to ``name``, for messages.

    Raises:
        ValueError: for another name.

    Example:
        >>> gt, lq = Degradation('matlab', 4).make_lq(torch.rand(1, 3, 50, 61))
        >>> gt.shape[-2:], lq.shape[-2:]
        (torch.Size([48, 60]), torch.Size([12, 15]))
    """

    name: str
    scale: int
    option: str = 'degradation'

    def __post_init__(self) -> None:
        check_choice(self.option, self.name, DEGRADATIONS)

    def __str__(self) -> str:
        return self.name

    @cached_property
    def operator(self) -> BicubicDownsample:
        """The linear part A, without rounding, with its pseudo-inverse."""
        return BicubicDownsample(self.scale, BORDERS[self.name])

    def small_size(self, size: Sequence[int], what: str = 'The image') -> tuple[int, int]:
        """(H, W) of an image -> (h, w) of its low-resolution one. Errors as of ``cut``."""
        height, width = size
        if min(size) < self.scale:
            raise ValueError(
                f'{what} is {height}x{width} (HxW), but both sides must be at least '
                f'scale={self.scale}. Remove it.'
            )
        return height // self.scale, width // self.scale

    def cut(self, image: Tensor, what: str = 'The image') -> Tensor:
        """(..., H, W) -> the top left part whose sides are multiples of ``scale``.

        Raises:
            ValueError: if a side is below ``scale``; the message begins with ``what``.
        """
        height, width = (self.scale * side for side in self.small_size(image.shape[-2:], what))
        return image[..., :height, :width]

    def degrade(self, image: Tensor) -> Tensor:
        """(..., 3, H, W) RGB in [0, 1] -> (..., 3, H/scale, W/scale), clamped, in 8-bit levels.

        Args:
            image: whole, not a crop: the border is treated unlike the inside.

        Raises:
            ValueError: if a side is no multiple of ``scale``.
        """
        *lead, height, width = check_divisible('image', image, self.scale).shape
        images = image.reshape(-1, 3, height, width)
        if self.name == 'matlab':
            small = round_to_8_bit(self.operator.A(images))
        else:
            small = torch.stack([self._pil(each) for each in images]).to(image)
        return small.reshape(*lead, height // self.scale, width // self.scale)

    def make_lq(self, image: Tensor, what: str = 'The image') -> tuple[Tensor, Tensor]:
        """A whole image -> it as ``cut`` leaves it, and the low-resolution image of that."""
        image = self.cut(image, what)
        return image, self.degrade(image)

    def _pil(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        size = (width // self.scale, height // self.scale)
        small = Image.fromarray(to_levels(image)).resize(size, Image.Resampling.BICUBIC)
        return from_levels(np.array(small))[0]
