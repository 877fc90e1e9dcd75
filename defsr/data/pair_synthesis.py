"""A ground truth and a second view of it from one photograph, with what relates the two.

Coordinates are those of ``pair_geometry``: (x, y), pixel centres at integers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import cv2
import numpy as np

from defsr.data.pair_geometry import (
    clipped_area,
    displace_to_overlap,
    render_view,
    room_inside,
    translation,
    window_corners,
)
from defsr.data.pair_settings import PairSettings

TRIES = 50  # draws of a view before it is made milder
STRENGTHS = (1.0, 0.5, 0.25, 0.0)  # 0: a plain crop, which always fits
OVERLAP_TOLERANCE = 1e-3
LUMA = np.array([0.299, 0.587, 0.114])
DISPLAY_GAMMA = 2.2  # exposure acts on light, pixels are coded with about this power


@dataclass(frozen=True)
class Photometry:
    """Colour changes, in the order of application; the defaults change nothing.

    Args:
        gamma: power applied to the pixel values, > 0.
        exposure: stops of light, > 0 brightens.
        warmth: stops that red gains and blue loses.
        contrast: factor about middle grey, > 0.
        hue: rotation about the grey axis, degrees.
        saturation: factor on the distance from grey, >= 0.
    """

    gamma: float = 1.0
    exposure: float = 0.0
    warmth: float = 0.0
    contrast: float = 1.0
    hue: float = 0.0
    saturation: float = 1.0


@dataclass(frozen=True)
class View:
    """A reference's window in a photograph: (3, 3) map from its pixels, and the overlap."""

    ref_to_photo: np.ndarray
    overlap_asked: float
    overlap: float


@dataclass(frozen=True)
class Pair:
    """A training pair with its truth.

    Args:
        gt, ref: (size, size, 3) and (ref_size, ref_size, 3) RGB uint8.
        gt_xy: column and row of the ground truth's top-left pixel in its photograph.
        ref_source: name of the photograph that the reference shows.
        homography: (3, 3) float64, ground truth to reference pixels; NaN if unrelated.
        overlap_asked, overlap: drawn and reached share of the ground truth's area; 0 if unrelated.
        photometry: what was done to the reference's colours.
    """

    gt: np.ndarray
    ref: np.ndarray
    gt_xy: tuple[int, int]
    ref_source: str
    unrelated: bool
    homography: np.ndarray
    overlap_asked: float
    overlap: float
    photometry: Photometry


def pair_generators(seed: int, name: str, k: int) -> tuple[np.random.Generator, ...]:
    """Generators for the geometry and the photometry of pair ``k`` of photograph ``name``.

    They depend on nothing else: not on the other photographs, the order or the process.
    """
    digest = hashlib.sha256(f'{name}\n{k}'.encode('utf-8', 'surrogateescape')).digest()
    entropy = [seed, *np.frombuffer(digest, dtype='<u4').tolist()]
    return tuple(np.random.default_rng(s) for s in np.random.SeedSequence(entropy).spawn(2))


def make_pair(
    name: str,
    k: int,
    settings: PairSettings,
    others: Sequence[str],
    read: Callable[[str], np.ndarray],
) -> Pair:
    """Pair ``k`` of photograph ``name``.

    Args:
        name: file name; with ``settings.seed`` and ``k`` it decides every draw.
        k: number of the pair, >= 0.
        settings: what to draw from.
        others: names of the photographs that an unrelated reference may come from, in a fixed
            order. May be empty if ``settings.unrelated`` is 0.
        read: name -> (H, W, 3) RGB uint8, no side below ``settings.min_side``.
    """
    rng, rng_colour = pair_generators(settings.seed, name, k)
    unrelated = bool(rng.random() < settings.unrelated)
    photo = read(name)
    height, width = photo.shape[:2]
    x = int(rng.integers(width - settings.size + 1))
    y = int(rng.integers(height - settings.size + 1))
    homography = np.full((3, 3), np.nan)
    if unrelated:
        source = others[int(rng.integers(len(others)))]
        seen = read(source)
        view = draw_view(rng, settings, seen.shape[:2])
    else:
        source, seen = name, photo
        view = draw_view(rng, settings, (height, width), (x, y))
        homography = np.linalg.inv(view.ref_to_photo) @ translation(x, y)
        homography /= homography[2, 2]
    photometry = draw_photometry(rng_colour, settings.photometric)
    ref = apply_photometry(render_view(seen, view.ref_to_photo, settings.ref_size), photometry)
    return Pair(
        gt=photo[y : y + settings.size, x : x + settings.size],
        ref=np.rint(ref * 255).astype(np.uint8),
        gt_xy=(x, y),
        ref_source=source,
        unrelated=unrelated,
        homography=homography,
        overlap_asked=view.overlap_asked,
        overlap=view.overlap,
        photometry=photometry,
    )


def draw_view(
    rng: np.random.Generator,
    settings: PairSettings,
    photo_size: tuple[int, int],
    gt_xy: tuple[int, int] | None = None,
) -> View:
    """A random window that lies inside the photograph and reaches a random overlap.

    The window is displaced from the ground truth in a random direction until the overlap is the
    asked one. If in ``TRIES`` draws no such window lies inside, the nearest overlap among the
    windows that were pushed inside is taken, as long as it is not below the range; else the view
    is drawn milder, down to a plain crop.

    Args:
        photo_size: (height, width), no side below ``settings.min_side``.
        gt_xy: the ground truth's top-left pixel; None draws a window anywhere, overlap 0.
    """
    target = rng.uniform(*settings.overlap) if gt_xy is not None else 0.0
    corners = window_corners(settings.ref_size)
    for strength in STRENGTHS:
        best, best_miss = None, np.inf
        for _ in range(TRIES):
            quad = _draw_quad(rng, settings, photo_size, strength)
            room = room_inside(quad, photo_size)
            if (room[0] > room[1]).any():
                continue
            if gt_xy is None:
                moved, overlap = quad + rng.uniform(*room), 0.0
            else:
                box = np.add(gt_xy, -0.5), np.add(gt_xy, settings.size - 0.5)
                moved = displace_to_overlap(rng, quad, box, target)
                moved = moved + np.clip(0, *room_inside(moved, photo_size))
                overlap = clipped_area(moved, *box) / settings.size**2
            miss = abs(overlap - target)
            enough = overlap >= settings.overlap[0] - OVERLAP_TOLERANCE
            if (enough or gt_xy is None or strength == 0) and miss < best_miss:
                best, best_miss = (moved, overlap), miss
            if best_miss < OVERLAP_TOLERANCE:
                break
        if best is not None:
            break
    assert best is not None, 'the plain crop fits: photographs below min_side are refused'
    ref_to_photo = cv2.getPerspectiveTransform(
        corners.astype(np.float32), best[0].astype(np.float32)
    )
    return View(ref_to_photo, float(target), float(best[1]))


def draw_photometry(rng: np.random.Generator, strength: float = 1.0) -> Photometry:
    """Random colour changes; at strength 1 gamma and contrast up to 1.25 or 0.8, exposure 0.7
    and warmth 0.2 stops either way, hue 8 degrees, saturation up to 1.33 or 0.75."""
    spread = strength * rng.uniform(-1, 1, size=len(fields(Photometry)))
    gamma, exposure, warmth, contrast, hue, saturation = (float(x) for x in spread)
    return Photometry(
        gamma=1.25**gamma,
        exposure=0.7 * exposure,
        warmth=0.2 * warmth,
        contrast=1.25**contrast,
        hue=8 * hue,
        saturation=1.33**saturation,
    )


def apply_photometry(image: np.ndarray, photometry: Photometry) -> np.ndarray:
    """(H, W, 3) RGB float32 in [0, 1] -> the same, changed and clamped. Grey stays grey but for
    the warmth."""
    if photometry == Photometry():
        return image
    stops = photometry.exposure + photometry.warmth * np.array([1, 0, -1])
    gain = 2 ** (stops / DISPLAY_GAMMA)
    angle = np.deg2rad(photometry.hue)
    rotation = cv2.Rodrigues(np.full(3, angle / np.sqrt(3)))[0]
    saturation = photometry.saturation * np.eye(3) + (1 - photometry.saturation) * LUMA
    image = np.power(image, np.float32(photometry.gamma)) * gain.astype(np.float32)
    image = (image - np.float32(0.5)) * np.float32(photometry.contrast) + np.float32(0.5)
    return cv2.transform(image, saturation @ rotation).clip(0, 1)


def _draw_quad(
    rng: np.random.Generator,
    settings: PairSettings,
    photo_size: tuple[int, int],
    strength: float,
) -> np.ndarray:
    """(4, 2) corners of a reference window about (0, 0), in photograph pixels."""
    low, high = settings.scale
    mild = max(np.clip(1.0, low, high), settings.ref_size / min(photo_size))
    scale = np.exp(rng.uniform(np.log(low), np.log(high)))
    scale = mild * (scale / mild) ** strength
    angle = strength * np.deg2rad(rng.uniform(-settings.rotation, settings.rotation))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    jitter = strength * settings.perspective * rng.uniform(-1, 1, size=(4, 2))
    square = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) / 2
    return (square @ turn + jitter) * (settings.ref_size / scale)
