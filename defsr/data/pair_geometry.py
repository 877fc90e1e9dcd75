"""Windows in photographs: homographies, shared areas, sampling.

Coordinates are (x, y) with the centre of the top-left pixel at (0, 0), as in OpenCV: an image
of width W covers -0.5 .. W - 0.5. Homographies act on columns [x, y, 1].
"""

from __future__ import annotations

import cv2
import numpy as np


def window_corners(size: int) -> np.ndarray:
    """(4, 2) outer corners of a square image, clockwise from the top left."""
    return np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * float(size) - 0.5


def translation(x: float, y: float) -> np.ndarray:
    """(3, 3) homography that adds (x, y)."""
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], dtype=np.float64)


def project(homography: np.ndarray, points_xy: np.ndarray) -> np.ndarray:
    """Apply a (3, 3) homography to (..., 2) points; NaN where they lie behind the view."""
    mapped = points_xy @ homography[:, :2].T + homography[:, 2]
    depth = mapped[..., 2:]
    return mapped[..., :2] / np.where(depth > 0, depth, np.nan)


def clipped_area(polygon: np.ndarray, low: np.ndarray, high: np.ndarray) -> float:
    """Area of a convex (n, 2) polygon inside the box from ``low`` to ``high``, (x, y) each."""
    for axis, sign, limit in ((0, 1, low[0]), (0, -1, high[0]), (1, 1, low[1]), (1, -1, high[1])):
        depth = sign * (polygon[:, axis] - limit)
        following, depth_following = np.roll(polygon, -1, axis=0), np.roll(depth, -1)
        crosses = depth * depth_following < 0
        span = np.where(crosses, depth - depth_following, 1.0)
        cut = polygon + (depth / span)[:, None] * (following - polygon)
        keep = np.stack((depth >= 0, crosses), axis=1)
        polygon = np.stack((polygon, cut), axis=1)[keep]
        if len(polygon) < 3:
            return 0.0
    return polygon_area(polygon)


def polygon_area(polygon: np.ndarray) -> float:
    """Area of a simple (n, 2) polygon."""
    x, y = polygon.T
    return 0.5 * abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))


def displace_to_overlap(
    rng: np.random.Generator, quad: np.ndarray, box: tuple[np.ndarray, np.ndarray], target: float
) -> np.ndarray:
    """Move the quad from the box's centre in a random direction until the overlap is ``target``.

    The area that two convex shapes share falls along the way from one maximum, so bisection finds
    the place. At the centre if even there the overlap is smaller.
    """
    quad = quad + (box[0] + box[1]) / 2
    area = target * np.prod(box[1] - box[0]) * (1 - 1e-9)
    angle = rng.uniform(0, 2 * np.pi)
    direction = np.array([np.cos(angle), np.sin(angle)])
    near, far = 0.0, 2 * float(np.ptp(quad, axis=0).max() + (box[1] - box[0]).max())
    if clipped_area(quad, *box) < area:
        return quad
    while far - near > 1e-3:
        middle = (near + far) / 2
        enough = clipped_area(quad + middle * direction, *box) >= area
        near, far = (middle, far) if enough else (near, middle)
    return quad + near * direction


def room_inside(quad: np.ndarray, photo_size: tuple[int, int]) -> np.ndarray:
    """Smallest and largest (x, y) shift that keeps the quad inside; smallest > largest: none."""
    slack = 1e-6 * max(photo_size)
    low = -0.5 - slack - quad.min(axis=0)
    return np.stack((low, np.subtract(photo_size[::-1], 0.5) + slack - quad.max(axis=0)))


def render_view(photo: np.ndarray, ref_to_photo: np.ndarray, ref_size: int) -> np.ndarray:
    """Sample the window from the photograph: Lanczos, low-passed first where it shrinks.

    Args:
        photo: (H, W, 3) uint8.
        ref_to_photo: (3, 3), reference to photograph pixels, the window inside the photograph.

    Returns:
        (ref_size, ref_size, 3) float32 in [0, 1].
    """
    quad = project(ref_to_photo, window_corners(ref_size))
    shrink = np.sqrt(polygon_area(quad)) / ref_size
    sigma = 0.5 * np.sqrt(max(shrink**2 - 1, 0.0))
    margin = 8 + int(np.ceil(4 * sigma))
    height, width = photo.shape[:2]
    x0, y0 = np.maximum(np.floor(quad.min(axis=0)).astype(int) - margin, 0)
    x1, y1 = np.minimum(np.ceil(quad.max(axis=0)).astype(int) + margin, (width, height))
    crop: np.ndarray = photo[y0:y1, x0:x1].astype(np.float32) / 255
    if sigma > 0.1:
        crop = cv2.GaussianBlur(crop, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
    ref = cv2.warpPerspective(
        crop,
        translation(-x0, -y0) @ ref_to_photo,
        (ref_size, ref_size),
        flags=cv2.INTER_LANCZOS4 | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,  # for the kernel's reach; the samples lie inside
    )
    return ref.clip(0, 1)
