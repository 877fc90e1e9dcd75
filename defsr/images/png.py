"""PNG files of pixels as they are, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from defsr.utils.files import atomic_path


def encode_png(image: np.ndarray) -> bytes:
    """(H,W) or (H,W,3) BGR, uint8 or uint16 -> a PNG file's content."""
    return cv2.imencode('.png', np.ascontiguousarray(image))[1].tobytes()


def write_png(image: np.ndarray, path: str | Path) -> None:
    """Write a PNG, see ``encode_png``; its folder is made if need be.

    Not by ``cv2.imwrite``, which dies of a path that is not UTF-8 and says nothing of a full disk.

    Raises:
        OSError: if the disk does not take it.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(encode_png(image))
