"""The random part of a training item, and what it does to the images."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from defsr.ops.padding import reflect_index

RefAugment = Literal['together', 'independent', 'none']
REF_AUGMENTS: tuple[RefAugment, ...] = ('together', 'independent', 'none')


@dataclass(frozen=True)
class Dihedral:
    """One of the eight flips and rotations by 90 degrees: flips first, then the transpose."""

    hflip: bool = False
    vflip: bool = False
    transpose: bool = False

    def __call__(self, image: Tensor) -> Tensor:
        """(..., H, W) -> the same pixels, rearranged; (..., W, H) if transposed."""
        axes = [axis for axis, flip in ((-1, self.hflip), (-2, self.vflip)) if flip]
        image = image.flip(axes) if axes else image
        return image.transpose(-1, -2) if self.transpose else image


@dataclass(frozen=True)
class Position:
    """Where a crop lies, as shares of the free play in y and x, each in [0, 1)."""

    y: float
    x: float

    def offset_yx(self, image: Tensor, size: int) -> tuple[int, int]:
        """Top left corner of a size x size crop of (..., H, W); 0 along a side without play."""
        height, width = image.shape[-2:]
        top = int(self.y * (max(height - size, 0) + 1))
        left = int(self.x * (max(width - size, 0) + 1))
        return top, left


@dataclass(frozen=True)
class ItemDraw:
    """Every random choice of one training item, made before any image is seen.

    Attributes:
        position, transform: of lq, gt and de.
        ref_position, ref_transform: of ref and ref_de.
        ref_choice: in [0, 1), which of several references.
    """

    position: Position
    transform: Dihedral
    ref_position: Position
    ref_transform: Dihedral
    ref_choice: float

    def pick(self, names: tuple[str, ...]) -> int:
        """Index of the reference to use."""
        return int(self.ref_choice * len(names))


def draw_item(use_hflip: bool, use_rot: bool, ref_augment: RefAugment) -> ItemDraw:
    """Draw one item's random choices, the only place where the data set takes random numbers.

    They come from Python's ``random``, which BasicSR seeds in every worker; the same count is
    taken whatever the options are.

    Args:
        use_hflip: horizontal flips.
        use_rot: vertical flips and transposes; with ``use_hflip`` all eight rearrangements.
        ref_augment: ``together``: the reference gets the input's rearrangement and, where it
            is larger than its crop, the input's relative position; ``independent``: its own of
            both; ``none``: its own position, never rearranged.
    """
    numbers = [random.random() for _ in range(11)]
    position, ref_position = Position(*numbers[0:2]), Position(*numbers[2:4])
    transforms = [
        Dihedral(use_hflip and h < 0.5, use_rot and v < 0.5, use_rot and t < 0.5)
        for h, v, t in (numbers[4:7], numbers[7:10])
    ]
    transform, ref_transform = transforms
    if ref_augment == 'together':
        ref_position, ref_transform = position, transform
    elif ref_augment == 'none':
        ref_transform = Dihedral()
    return ItemDraw(position, transform, ref_position, ref_transform, ref_choice=numbers[10])


def crop(image: Tensor, top: int, left: int, size: int) -> Tensor:
    """(..., H, W) -> (..., size, size); mirrored beyond the image's border."""
    height, width = image.shape[-2:]
    if top + size <= height and left + size <= width:
        return image[..., top : top + size, left : left + size]
    rows = reflect_index(torch.arange(top, top + size), height)
    columns = reflect_index(torch.arange(left, left + size), width)
    return image[..., rows, :][..., columns]
