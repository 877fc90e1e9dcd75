"""Which matches one geometry confirms, and whether they are enough to believe it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from defsr.rectify.matchers import Matches

LEAST = 20  # confirmed matches; of unrelated photographs fewer agree by chance
LEAST_COVERED = 0.02  # share of the image that they spread over
EPIPOLAR_PIXELS, PLANAR_PIXELS = 2.0, 3.0
PLANAR_SHARE = 0.8  # of the epipolar matches: then a fundamental matrix says no more than a plane


@dataclass(frozen=True)
class Confirmed:
    """Matches that agree with one fundamental matrix, or with one homography.

    Attributes:
        matches: those, and no others.
        covered: share of the image inside their convex hull.
        homography: (3, 3) float64, query (x, y, 1) to key; the best single one.
    """

    matches: Matches
    covered: float
    homography: Tensor

    @property
    def number(self) -> int:
        """Of matches."""
        return len(self.matches.query_yx)

    @property
    def suffices(self) -> bool:
        """Whether unrelated photographs do not reach this."""
        return self.number >= LEAST and self.covered >= LEAST_COVERED


def confirm(matches: Matches, size: tuple[int, int]) -> Confirmed | None:
    """Select between a fundamental matrix and a homography, by MAGSAC++ (Barath et al. 2020).

    Args:
        matches: of a query of ``size``.
        size: (H, W).

    Returns:
        None if no geometry fits at all.
    """
    if len(matches.query_yx) < 8:
        return None
    query, key = (x.flip(1).contiguous().numpy() for x in matches)  # OpenCV's (x, y)
    homography, planar = cv2.findHomography(query, key, _magsac(PLANAR_PIXELS))
    fundamental, epipolar = cv2.findFundamentalMat(query, key, _magsac(EPIPOLAR_PIXELS))
    if homography is None or planar is None:
        return None
    chosen = planar.ravel() > 0
    if fundamental is not None and epipolar is not None:
        general = epipolar.ravel() > 0
        if chosen.sum() < PLANAR_SHARE * general.sum():
            chosen = general
    if chosen.sum() < 3:
        return None
    kept = torch.from_numpy(chosen)
    hull = cv2.convexHull(query[chosen].astype(np.float32))
    covered = cv2.contourArea(hull) / (size[0] * size[1])
    return Confirmed(
        Matches(matches.query_yx[kept], matches.key_yx[kept]), covered, torch.from_numpy(homography)
    )


def _magsac(pixels: float) -> Any:
    params = cv2.UsacParams()
    params.threshold, params.confidence, params.maxIterations = pixels, 0.9999, 10_000
    params.sampler, params.score = cv2.SAMPLING_UNIFORM, cv2.SCORE_METHOD_MAGSAC
    params.loMethod, params.randomGeneratorState = cv2.LOCAL_OPTIM_SIGMA, 1
    return params
