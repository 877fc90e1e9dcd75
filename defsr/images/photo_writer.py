"""Photographs written in kind: depth, grey, alpha and metadata as far as a format allows."""

from __future__ import annotations

import io
from dataclasses import replace
from logging import getLogger
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from defsr.images.levels import to_levels
from defsr.images.metadata import png_chunks
from defsr.images.photo import Photo, to_grey
from defsr.images.tiff import encode_tiff
from defsr.utils.files import atomic_path

# Output extension -> (Pillow's format, largest side it can hold).
WRITABLE = {
    '.png': ('PNG', 2**31 - 1),
    '.jpg': ('JPEG', 65500),
    '.jpeg': ('JPEG', 65500),
    '.tif': ('TIFF', 2**31 - 1),
    '.tiff': ('TIFF', 2**31 - 1),
    '.webp': ('WEBP', 16383),
}
SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    'PNG': {},
    'JPEG': {'quality': 95, 'subsampling': '4:4:4'},
    'WEBP': {'lossless': True},
}
PNG_HEADER = 33  # bytes: signature and IHDR, before which nothing may stand
DEEP_FORMATS = ('PNG', 'TIFF')
ALPHA_FORMATS = ('PNG', 'TIFF', 'WEBP')


def write_photo(path: str | Path, photo: Photo) -> None:
    """Write a photo atomically, in its depth and kind as far as the format allows.

    16 bit for PNG and TIFF, else 8 bit; grey if it is; alpha unless for JPEG; the metadata.
    ``losses`` tells what does not fit. Values are clamped and rounded.

    Args:
        path: .png, .jpg, .jpeg (quality 95), .tif, .tiff or .webp (lossless).
        photo: as of ``read_photo``, or what an ``Upscaler`` made of it.

    Raises:
        ValueError: for another extension or size, see ``check_writable``.
        OSError: if the file cannot be written.

    Example:
        >>> import tempfile
        >>> from defsr.images.photo import read_photo
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new('L', (6, 4)).save(f'{folder}/a.jpg', dpi=(300, 300))
        ...     photo = read_photo(f'{folder}/a.jpg')
        ...     write_photo(f'{folder}/b.tif', photo)
        ...     again = read_photo(f'{folder}/b.tif')
        >>> photo.size, photo.is_grey, again.metadata.dpi
        ((4, 6), True, (300.0, 300.0))
    """
    format_name = check_writable(path, photo.size)
    deep = photo.bit_depth == 16 and format_name in DEEP_FORMATS
    levels = to_levels(_channels(photo, format_name in ALPHA_FORMATS), 16 if deep else 8)
    options, _ = _save_options(photo, format_name)
    if format_name == 'TIFF':
        content = encode_tiff(_coloured(levels) if deep else levels, options.get('tags', {}))
    else:
        content = (_encode_16 if deep else _encode_8)(levels, format_name, options)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def to_picture(photo: Photo) -> Image.Image:
    """As Pillow has it: L, LA, RGB or RGBA, or I;16 for 16-bit grey; metadata in its ``info``.

    Pillow has no 16 bit for colour or alpha: these are rounded to 8 bit, which is logged.
    """
    deep = photo.bit_depth == 16 and photo.is_grey and photo.alpha is None
    for line in _damages(photo):
        getLogger('basicsr').warning(line)
    if photo.bit_depth == 16 and not deep:
        getLogger('basicsr').warning(f'{photo.path}: 16 bit of colour are rounded to 8 for Pillow.')
    picture = Image.fromarray(to_levels(_channels(photo), 16 if deep else 8))
    picture.info.update(photo.metadata.info())
    return picture


def check_writable(path: str | Path, size: tuple[int, int]) -> str:
    """Pillow's name of the format that ``path`` asks for, if it can hold ``size`` (H, W).

    Raises:
        ValueError: for an unknown extension or a size beyond the format.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in WRITABLE:
        raise ValueError(
            f'Output {path} has extension {suffix or "none"!r}, but must be one of '
            f'{", ".join(WRITABLE)}.'
        )
    name, largest = WRITABLE[suffix]
    if max(size) > largest:
        raise ValueError(
            f'The result is {size[0]}x{size[1]} (HxW), but {name} ends at {largest} pixels per '
            'side. Choose a .png output.'
        )
    return name


def losses(path: str | Path, like: Photo) -> list[str]:
    """What of ``like`` a file named ``path`` cannot keep, one sentence each."""
    format_name = check_writable(path, (1, 1))
    told = _damages(like)
    if like.alpha is not None and format_name not in ALPHA_FORMATS:
        told.append(f'{format_name} has no transparency: the alpha channel is dropped.')
    if like.bit_depth == 16 and format_name not in DEEP_FORMATS:
        told.append(f'{format_name} has 8 bit per channel: 16 bit are rounded to 8.')
    _, lost = _save_options(like, format_name)
    told += [
        f'The {what} of {like.path.name} cannot be kept in this {format_name}.' for what in lost
    ]
    return told


def _damages(photo: Photo) -> list[str]:
    return [
        f'The {what} of {photo.path.name} cannot be read: dropped.'
        for what in photo.metadata.damaged
    ]


def _channels(photo: Photo, with_alpha: bool = True) -> Tensor:
    """(1,C,H,W), colours and alpha as the photo has them."""
    colours = to_grey(photo.rgb) if photo.is_grey else photo.rgb
    if photo.alpha is None or not with_alpha:
        return colours
    return torch.cat((colours, photo.alpha), dim=1)


def _save_options(photo: Photo, format_name: str) -> tuple[dict[str, Any], list[str]]:
    """Metadata for Pillow's ``save``, and what is lost: a grey profile where RGB is stored."""
    metadata, lost = photo.metadata, []
    deep = photo.bit_depth == 16 and format_name in DEEP_FORMATS
    if photo.is_grey and (format_name == 'WEBP' or (deep and photo.alpha is not None)):
        lost = ['colour profile'] if metadata.icc_profile else []
        metadata = replace(metadata, icc_profile=None)
    options, more = metadata.for_format(format_name)
    return options, lost + more


def _coloured(levels: np.ndarray) -> np.ndarray:
    """(H,W,2), grey with alpha, -> (H,W,4), since OpenCV reads none with two channels of 16 bit."""
    return levels[..., [0, 0, 0, 1]] if levels.ndim == 3 and levels.shape[2] == 2 else levels


def _encode_8(levels: np.ndarray, format_name: str, options: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(levels)
    image.save(buffer, format_name, **SAVE_OPTIONS[format_name], **options)
    return buffer.getvalue()


def _encode_16(levels: np.ndarray, format_name: str, options: dict[str, Any]) -> bytes:
    """PNG by OpenCV; its metadata are taken over from a tiny one that Pillow writes."""
    is_grey = levels.ndim == 2
    if not is_grey:
        levels = _coloured(levels)  # RGB(A) -> OpenCV's BGR(A)
        levels = np.ascontiguousarray(levels[..., [2, 1, 0, 3][: levels.shape[2]]])
    done, buffer = cv2.imencode('.png', levels)
    if not done:
        raise OSError(f'OpenCV could not encode a 16-bit {format_name}.')
    tiny = _encode_8(np.zeros((1, 1) if is_grey else (1, 1, 3), np.uint8), format_name, options)
    more = b''.join(chunk for chunk in png_chunks(tiny) if chunk[4:5].islower())
    content = buffer.tobytes()
    return content[:PNG_HEADER] + more + content[PNG_HEADER:]
