"""TIFF with tags of any kind: OpenCV writes none, and Pillow's compressed files no EXIF data."""

from __future__ import annotations

import io
import zlib
from collections.abc import Mapping
from itertools import accumulate

import numpy as np
from PIL.TiffImagePlugin import ImageFileDirectory_v2

_BYTES_PER_STRIP = 2**20
_DEFLATE, _DIFFERENCES, _PLAIN_ALPHA = 8, 2, 2  # values of the tags below


def encode_tiff(levels: np.ndarray, tags: Mapping[int, object]) -> bytes:
    """A compressed TIFF file, without loss.

    Args:
        levels: (H, W) or (H, W, 2), grey, or (H, W, 3) or (H, W, 4), RGB, uint8 or uint16; the
            second or fourth channel is alpha.
        tags: others than those that say how the pixels are stored; a mapping for a block of tags.

    Raises:
        OSError: if a file of 4 GiB, where TIFF ends, is too small.
    """
    height, width, channels = levels.shape if levels.ndim == 3 else (*levels.shape, 1)
    rows = min(height, max(1, _BYTES_PER_STRIP // (width * channels * levels.itemsize)))
    levels = levels.reshape(height, width, channels)
    strips = [_packed(levels[top : top + rows]) for top in range(0, height, rows)]
    counts = [len(strip) for strip in strips]
    if sum(counts) >= 2**32 - 2**26:
        raise OSError('The result is too large for TIFF, which ends at 4 GiB. Choose .png.')
    directory = ImageFileDirectory_v2(b'II*\0\x08\0\0\0')
    layout = (
        {
            256: width,
            257: height,
            258: (8 * levels.itemsize,) * channels,
            259: _DEFLATE,
            262: 1 if channels < 3 else 2,  # photometric interpretation: grey or RGB
            273: tuple(accumulate(counts[:-1], initial=0)),  # Pillow adds where the first one is
            277: channels,
            278: rows,
            279: tuple(counts),
            284: 1,  # channels of a pixel side by side
            317: _DIFFERENCES,
        }
        | ({338: _PLAIN_ALPHA} if channels in (2, 4) else {})
    )
    for tag, value in {**tags, **layout}.items():
        directory[tag] = value
    file = io.BytesIO()
    directory.save(file)
    return file.getvalue() + b''.join(strips)


def _packed(strip: np.ndarray) -> bytes:
    """Each pixel as its difference from the one on its left, compressed."""
    differences = strip.astype(strip.dtype.newbyteorder('<'))
    differences[:, 1:] -= strip[:, :-1]
    return zlib.compress(differences.tobytes())
