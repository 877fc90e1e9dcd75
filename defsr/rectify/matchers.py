"""Points of one image and where they are seen in another: matchers behind one protocol."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from defsr.images.levels import to_levels

MOST_PIXELS = 1_500_000  # larger images are reduced to this for matching


class Matches(NamedTuple):
    """Positions, rows then columns, (K, 2) float64, of the same points in two images."""

    query_yx: Tensor
    key_yx: Tensor


class Matcher(Protocol):
    """Finds points of a query, the enhanced input, in a key, a reference.

    Attributes:
        wants_alike: the key is to be degraded and enhanced as the query was.
    """

    @property
    def wants_alike(self) -> bool: ...

    def __call__(self, query: Tensor, key: Tensor) -> Matches:
        """(1, 3, H, W) and (1, 3, H', W') in [0, 1] -> matches, many of them wrong."""
        ...


@dataclass(frozen=True)
class SIFT:
    """SIFT (Lowe 2004) with RootSIFT's descriptors and the ratio test, by OpenCV.

    Args:
        most: keypoints of each image.
        ratio: of the distance of the best to that of the second best descriptor.
    """

    most: int = 4096
    ratio: float = 0.8
    wants_alike: bool = True

    def __call__(self, query: Tensor, key: Tensor) -> Matches:
        """As ``Matcher``."""
        found = [self._describe(image) for image in (query, key)]
        (query_yx, query_desc), (key_yx, key_desc) = found
        if min(len(query_yx), len(key_yx)) < 2:
            return Matches(query_yx[:0], key_yx[:0])
        index, distance = _nearest_two(query_desc, key_desc)
        back, _ = _nearest_two(key_desc, query_desc)
        rows = torch.arange(len(query_yx))
        good = (distance[:, 0] < self.ratio * distance[:, 1]) & (back[index[:, 0], 0] == rows)
        return Matches(query_yx[good], key_yx[index[good, 0]])

    def _describe(self, image: Tensor) -> tuple[Tensor, Tensor]:
        grey, factor = _grey_levels(image)
        sift: Any = cv2.SIFT.create(self.most, contrastThreshold=0.01)
        points, descriptors = sift.detectAndCompute(grey, None)
        if descriptors is None:
            return torch.zeros(0, 2, dtype=torch.float64), torch.zeros(0, 128)
        places = np.array([point.pt[::-1] for point in points]).reshape(-1, 2)
        # One point may come with several orientations; a fixed order makes ties the same.
        order = np.lexsort((*descriptors.T[:4], *places.T))
        desc = torch.from_numpy(descriptors[order])
        desc = (desc / desc.sum(1, keepdim=True).clamp(min=1e-7)).sqrt()
        return (torch.from_numpy(places[order]) + 0.5) * factor - 0.5, desc


MATCHERS: dict[str, Callable[[], Matcher]] = {'sift': SIFT}


def _grey_levels(image: Tensor) -> tuple[np.ndarray, float]:
    """(H, W) uint8, reduced to ``MOST_PIXELS``, and how many pixels one of it stands for."""
    height, width = image.shape[-2:]
    factor = max(1.0, math.sqrt(height * width / MOST_PIXELS))
    if factor > 1:
        size = [max(1, round(side / factor)) for side in (height, width)]
        image = F.interpolate(image, size=size, mode='bilinear', antialias=True)
    return np.ascontiguousarray(to_levels(image.mean(1, keepdim=True))), factor


def _nearest_two(of: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
    """Index and distance (K, 2) of the two nearest descriptors, of vectors of length 1."""
    parts = [(part @ among.T).topk(2, dim=1) for part in of.split(1024)]
    similar = torch.cat([part.values for part in parts])
    index = torch.cat([part.indices for part in parts])
    return index, (2 - 2 * similar).clamp(min=0).sqrt()
