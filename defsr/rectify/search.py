"""Where an image is seen in another, whichever way that one is turned and however large."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from defsr.ops.dense_warp import linear_field, rotation, warp
from defsr.rectify.confirmation import Confirmed, confirm
from defsr.rectify.matches import MOST_PIXELS, Matcher, Matches
from defsr.rectify.sift import SIFT

FEW = 120  # confirmed matches, below which other poses are tried
MIRRORED = 60  # confirmed in the mirror image, and twice as many as in the image
QUICK = 512  # points of an image, for a guess
LEAST_OF_GUESS = 10  # confirmed matches that it is followed with
MOST_ZOOM = 4.0
ANGLE, ZOOM = math.radians(15), 1.3  # beyond these a matcher that wants it sees the key upright


@dataclass(frozen=True)
class Found:
    """What ``find`` finds: the geometry, or that the key is a mirror image."""

    confirmed: Confirmed | None
    mirrored: bool = False

    @property
    def number(self) -> int:
        """Of confirmed matches."""
        return 0 if self.confirmed is None else self.confirmed.number


def find(matcher: Matcher, query: Tensor, key: Tensor) -> Found:
    """Match a key as it is, then, if that gives little, upright as SIFT or quarter turns say.

    Args:
        matcher: who finds points.
        query, key: (1, 3, H, W) and (1, 3, H', W') in [0, 1], in memory.
    """
    size = (query.shape[-2], query.shape[-1])
    best = Found(confirm(matcher(query, key), size, matcher.least))
    if matcher.wants_upright:
        best = _upright(matcher, query, key, best)
        if best.number < FEW:
            guess = Found(confirm(SIFT()(query, key, QUICK), size, matcher.least))
            best = _better(best, _upright(matcher, query, key, guess))
        for quarter in (1, 2, 3):
            if best.number < FEW:
                turn = rotation(quarter * math.pi / 2)
                guess = _matched(matcher, query, key, turn, QUICK)
                best = _better(best, _upright(matcher, query, key, guess))
    if best.number < FEW:
        mirror = confirm(matcher(query, key.flip(-1), QUICK), size, matcher.least)
        if mirror is not None and mirror.number > max(MIRRORED, 2 * best.number):
            return Found(best.confirmed, mirrored=True)
    return best


def _better(one: Found, other: Found) -> Found:
    return other if other.number > one.number else one


def _upright(matcher: Matcher, query: Tensor, key: Tensor, found: Found) -> Found:
    """Match once more if the key is turned or of another scale."""
    if found.confirmed is None or found.number < LEAST_OF_GUESS:
        return found
    linear = found.confirmed.similarity()
    angle = math.atan2(float(linear[1, 0]), float(linear[0, 0]))
    zoom = math.sqrt(abs(float(torch.linalg.det(linear))))
    if not 1 / MOST_ZOOM < zoom < MOST_ZOOM or (abs(angle) < ANGLE and 1 / ZOOM < zoom < ZOOM):
        return found
    return _better(found, _matched(matcher, query, key, linear))


def _matched(
    matcher: Matcher, query: Tensor, key: Tensor, linear: Tensor, most: int | None = None
) -> Found:
    """Matches with the key seen through a linear map, (2, 2) from its view's places to its own."""
    height, width = key.shape[-2:]
    corners = torch.tensor([[height, width], [height, -width]], dtype=torch.float64)
    sides = (torch.linalg.inv(linear.double()) @ corners.T).abs().amax(dim=1)
    shrunk = max(1.0, math.sqrt(float(sides.prod()) / MOST_PIXELS))
    linear = linear.double() * shrunk
    size = [max(8, math.ceil(float(side) / shrunk)) for side in sides]
    start = torch.tensor([(side - 1) / 2 for side in (height, width)], dtype=torch.float64)
    start = start - linear @ torch.tensor([(side - 1) / 2 for side in size], dtype=torch.float64)
    view, _ = warp(key, linear_field(linear, start, (size[0], size[1])))
    matches = matcher(query, view.clamp(0, 1), most)
    matches = Matches(matches.query_yx, matches.key_yx @ linear.T + start)
    return Found(confirm(matches, (query.shape[-2], query.shape[-1]), matcher.least))
