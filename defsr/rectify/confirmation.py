"""Which matches one geometry confirms, and whether they are enough to believe it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from defsr.rectify.matches import Matches

LEAST_SHARE = 0.15  # of all matches: of very many wrong ones more agree by chance
LEAST_COVERED = 0.02  # share of the image that they spread over
LEAST_SPACING = 24.0  # pixels: fields do not follow closer matches one by one
LEAST_TO_FIT = 8  # matches that a fundamental matrix takes
LEAST_OF_PLANE = 12  # matches of a homography beside the first
EPIPOLAR_PIXELS, PLANAR_PIXELS = 2.0, 3.0
PLANAR_SHARE = 0.8  # of the epipolar matches: then a fundamental matrix says no more than a plane


@dataclass(frozen=True)
class Confirmed:
    """Matches that agree with one fundamental matrix, or with one homography.

    Attributes:
        matches: those, and no others.
        covered: share of the image inside their convex hull.
        homography: (3, 3) float64, query (x, y, 1) to key; the best single one.
        size: (H, W) of the query.
        of: how many matches there were, wrong ones included.
        least: how many unrelated photographs do not reach, a matter of the matcher.
    """

    matches: Matches
    covered: float
    homography: Tensor
    size: tuple[int, int]
    least: int
    of: int

    @property
    def number(self) -> int:
        """Of matches."""
        return len(self.matches.query_yx)

    @property
    def suffices(self) -> bool:
        """Whether unrelated photographs do not reach this."""
        enough = self.number >= max(self.least, LEAST_SHARE * self.of)
        return enough and self.covered >= LEAST_COVERED

    @property
    def spacing(self) -> float:
        """Mean distance of matches in pixels, were they even over what they cover; with a least."""
        area = max(self.covered, 1e-3) * self.size[0] * self.size[1]
        return max(LEAST_SPACING, math.sqrt(area / self.number))

    def similarity(self) -> Tensor:
        """(2, 2) float64, the turn and the scale from query to key, least squares; (y, x)."""
        query, key = (x - x.mean(dim=0) for x in self.matches)
        square = query.square().sum().clamp(min=1e-9)
        along = (query * key).sum() / square
        across = (query[:, 0] * key[:, 1] - query[:, 1] * key[:, 0]).sum() / square
        return torch.stack((torch.stack((along, -across)), torch.stack((across, along))))


def confirm(matches: Matches, size: tuple[int, int], least: int) -> Confirmed | None:
    """Select between a fundamental matrix and a homography, by MAGSAC++ (Barath et al. 2020).

    Args:
        matches: of a query of ``size``.
        size: (H, W).
        least: of the matcher.

    Returns:
        None if no geometry fits at all.
    """
    if len(matches.query_yx) < LEAST_TO_FIT:
        return None
    query, key = (x.flip(1).contiguous().numpy() for x in matches)  # OpenCV's (x, y)
    homography, chosen = _fitted(cv2.findHomography, query, key, PLANAR_PIXELS)
    if homography is None:
        return None
    fundamental, general = _fitted(cv2.findFundamentalMat, query, key, EPIPOLAR_PIXELS)
    if fundamental is not None and chosen.sum() < PLANAR_SHARE * general.sum():
        chosen = general
    return None if chosen.sum() < 3 else _confirmed(matches, chosen, homography, size, least)


def planes_of(confirmed: Confirmed, most: int = 4) -> list[Confirmed]:
    """Homographies one after the other, each through matches that those before left over."""
    found: list[Confirmed] = []
    left = confirmed.matches
    while len(found) < most and len(left.query_yx) >= LEAST_TO_FIT:
        query, key = (x.flip(1).contiguous().numpy() for x in left)
        homography, chosen = _fitted(cv2.findHomography, query, key, PLANAR_PIXELS)
        if homography is None or chosen.sum() < LEAST_OF_PLANE:
            break
        found.append(_confirmed(left, chosen, homography, confirmed.size, confirmed.least))
        left = Matches(*(x[torch.from_numpy(~chosen)] for x in left))
    return found


def _confirmed(
    matches: Matches,
    chosen: np.ndarray,
    homography: np.ndarray,
    size: tuple[int, int],
    least: int,
) -> Confirmed:
    kept = Matches(*(x[torch.from_numpy(chosen)] for x in matches))
    hull = cv2.convexHull(kept.query_yx.flip(1).float().contiguous().numpy())
    covered = cv2.contourArea(hull) / (size[0] * size[1])
    of = len(matches.query_yx)
    return Confirmed(kept, covered, torch.from_numpy(homography), size, least, of)


def _fitted(
    find: Callable[..., Any], query: np.ndarray, key: np.ndarray, pixels: float
) -> tuple[np.ndarray | None, np.ndarray]:
    """The model that OpenCV finds, or None, and the matches that agree with it, (K,) bool."""
    try:
        model, mask = find(query, key, _magsac(pixels))
    except cv2.error:  # its refinement stumbles over a model that it has just refused
        model = mask = None
    if model is None or mask is None:
        return None, np.zeros(len(query), bool)
    return model, mask.ravel() > 0


def _magsac(pixels: float) -> Any:
    params = cv2.UsacParams()
    params.threshold, params.confidence, params.maxIterations = pixels, 0.9999, 10_000
    params.sampler, params.score = cv2.SAMPLING_UNIFORM, cv2.SCORE_METHOD_MAGSAC
    params.loMethod, params.randomGeneratorState = cv2.LOCAL_OPTIM_SIGMA, 1
    return params
