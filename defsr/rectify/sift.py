"""SIFT (Lowe 2004) with RootSIFT's descriptors and the ratio test: needs OpenCV alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from defsr.images.levels import to_levels
from defsr.rectify.matches import Matches, reduced, unreduced


@dataclass(frozen=True)
class SIFT:
    """A ``Matcher`` for any angle and scale.

    Args:
        most: keypoints of each image.
        ratio: of the distance of the best to that of the second best descriptor.
    """

    most: int = 4096
    ratio: float = 0.8
    wants_alike: bool = True
    wants_upright: bool = False
    least: int = 16

    def __call__(self, query: Tensor, key: Tensor, most: int | None = None) -> Matches:
        """As ``Matcher``."""
        found = [self._describe(image, most or self.most) for image in (query, key)]
        (query_yx, query_desc), (key_yx, key_desc) = found
        if min(len(query_yx), len(key_yx)) < 2:
            return Matches.none()
        index, distance = _nearest_two(query_desc, key_desc)
        back, _ = _nearest_two(key_desc, query_desc)
        rows = torch.arange(len(query_yx))
        good = (distance[:, 0] < self.ratio * distance[:, 1]) & (back[index[:, 0], 0] == rows)
        return Matches(query_yx[good], key_yx[index[good, 0]])

    def _describe(self, image: Tensor, most: int) -> tuple[Tensor, Tensor]:
        image, factor = reduced(image)
        grey = np.ascontiguousarray(to_levels(image.mean(1, keepdim=True)))
        sift: Any = cv2.SIFT.create(most, contrastThreshold=0.01)
        points, descriptors = sift.detectAndCompute(grey, None)
        if descriptors is None:
            return torch.zeros(0, 2, dtype=torch.float64), torch.zeros(0, 128)
        places = np.array([point.pt[::-1] for point in points]).reshape(-1, 2)
        # One point may come with several orientations; a fixed order makes ties the same.
        order = np.lexsort((*descriptors.T[:4], *places.T))
        desc = torch.from_numpy(descriptors[order])
        desc = (desc / desc.sum(1, keepdim=True).clamp(min=1e-7)).sqrt()
        return unreduced(torch.from_numpy(places[order]), factor), desc


def _nearest_two(of: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
    """Index and distance (K, 2) of the two nearest descriptors, of vectors of length 1."""
    parts = [(part @ among.T).topk(2, dim=1) for part in of.split(1024)]
    similar = torch.cat([part.values for part in parts])
    index = torch.cat([part.indices for part in parts])
    return index, (2 - 2 * similar).clamp(min=0).sqrt()
