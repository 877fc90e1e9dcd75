"""What a matcher is: points of one image and where they are seen in another."""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

MOST_PIXELS = 1_500_000  # larger images are reduced to this for matching


class Matches(NamedTuple):
    """Positions, rows then columns, (K, 2) float64, of the same points in two images."""

    query_yx: Tensor
    key_yx: Tensor

    @classmethod
    def none(cls) -> Matches:
        """Of images that have too few points."""
        return cls(*torch.zeros(2, 0, 2, dtype=torch.float64))


class Matcher(Protocol):
    """Finds points of a query, the enhanced input, in a key, a reference.

    Attributes:
        wants_alike: the key is to be degraded and enhanced as the query was.
        wants_upright: the key is to be turned and scaled as the query is, if that is known.
        least: confirmed matches that no two unrelated photographs reach by chance, measured by
            ``tests/benchmarks/rectify_thresholds.py``.
    """

    @property
    def wants_alike(self) -> bool: ...

    @property
    def wants_upright(self) -> bool: ...

    @property
    def least(self) -> int: ...

    def __call__(self, query: Tensor, key: Tensor, most: int | None = None) -> Matches:
        """(1, 3, H, W) and (1, 3, H', W') in [0, 1] -> matches, many of them wrong.

        ``most`` points of each image, fewer than the matcher's own, are for a quick look.
        """
        ...


def reduced(image: Tensor, most_pixels: int = MOST_PIXELS) -> tuple[Tensor, float]:
    """An image of at most so many pixels, and how many pixels one of it stands for."""
    height, width = image.shape[-2:]
    factor = max(1.0, math.sqrt(height * width / most_pixels))
    if factor > 1:
        size = [max(1, round(side / factor)) for side in (height, width)]
        image = F.interpolate(image, size=size, mode='bilinear', antialias=True)
    return image, factor


def unreduced(places_yx: Tensor, factor: float) -> Tensor:
    """Positions in a reduced image as those in the image itself, float64."""
    return (places_yx.double() + 0.5) * factor - 0.5
