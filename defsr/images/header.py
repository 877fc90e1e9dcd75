"""What an image file says before it is decoded: its size, and whether all of it is there."""

from __future__ import annotations

import struct
from collections.abc import Callable

MAX_MEGAPIXELS = 128.0
KNOWN = ('PNG', 'JPEG', 'BMP', 'TIFF', 'WEBP')
_PNG = b'\x89PNG\r\n\x1a\n'
_TIFF = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
_TIFF_SIZE = (256, 257)  # tags of width and height
_JPEG = b'\xff\xd8\xff'
_JPEG_SIZE = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # "start of frame" markers


class _UnknownError(Exception):
    """No image, or one of another kind."""


class _CutOffError(Exception):
    """The file ends before the image does."""


def image_size(content: bytes, path: str) -> tuple[int, int]:
    """(height, width) of an encoded image, once it is clear that the file is complete.

    Decoders fill what a JPEG lacks with grey and may not say so. A PNG is followed to its IEND
    chunk, a JPEG to its EOI marker, whatever comes after these; the others are left to their
    decoders, which refuse a file that is too short.

    Args:
        content: of a PNG, JPEG, BMP, TIFF or WebP file.
        path: for messages.

    Raises:
        ValueError: for another kind of file, and for one that is cut off.
    """
    try:
        return _reader(content)(content)
    except (_CutOffError, struct.error, IndexError, OverflowError):
        raise ValueError(
            f'{path} is cut off: the file ends before the image does. Copy it anew, or leave it '
            'out.'
        ) from None
    except _UnknownError:
        raise ValueError(
            f'{path} cannot be read as an image ({", ".join(KNOWN)}). '
            'Replace the file or leave it out.'
        ) from None


def check_megapixels(
    path: object, size: tuple[int, int], limit: float, option: str = 'max_megapixels'
) -> None:
    """ValueError if an image of ``size`` (H, W) has more than ``limit`` megapixels."""
    megapixels = size[0] * size[1] / 1e6
    if megapixels > limit:
        raise ValueError(
            f'{path} has {megapixels:.1f} megapixels ({size[0]}x{size[1]}, HxW), more than '
            f'{option}={limit:g}. Reduce the image or raise the limit.'
        )


def _reader(content: bytes) -> Callable[[bytes], tuple[int, int]]:
    if content.startswith(_PNG):
        return _png_size
    if content.startswith(_JPEG):
        return _jpeg_size
    if content.startswith(b'BM'):
        return _bmp_size
    if content.startswith(_TIFF):
        return _tiff_size
    if content.startswith(b'RIFF') and content[8:12] == b'WEBP':
        return _webp_size
    raise _UnknownError


def _png_size(content: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from('>II', content, 16)
    position, kind = len(_PNG), b''
    while kind != b'IEND':
        length, kind = struct.unpack_from('>I4s', content, position)
        position += length + 12
    if position > len(content):
        raise _CutOffError
    return height, width


def _jpeg_size(content: bytes) -> tuple[int, int]:
    position, size = 2, None
    while True:
        while content[position] != 0xFF:  # rubbish between segments, which decoders skip
            position += 1
        while content[position] == 0xFF:
            position += 1
        marker = content[position]
        if marker in _JPEG_SIZE:
            size = struct.unpack_from('>HH', content, position + 4)
        if marker == 0xDA:
            break
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            position += 1
        else:
            position += 1 + struct.unpack_from('>H', content, position + 1)[0]
    if size is None or content.rfind(b'\xff\xd9', position) < 0:
        raise _CutOffError
    return size


def _bmp_size(content: bytes) -> tuple[int, int]:
    old = struct.unpack_from('<I', content, 14)[0] == 12
    width, height = struct.unpack_from('<HH' if old else '<ii', content, 18)
    return abs(height), abs(width)


def _webp_size(content: bytes) -> tuple[int, int]:
    length, kind = struct.unpack_from('<I4x4s', content, 4)
    if length + 8 > len(content):
        raise _CutOffError
    if kind == b'VP8X':
        width, height = (int.from_bytes(content[i : i + 3], 'little') + 1 for i in (24, 27))
    elif kind == b'VP8L':
        bits = struct.unpack_from('<I', content, 21)[0]
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from('<HH', content, 26))
    return height, width


def _tiff_size(content: bytes) -> tuple[int, int]:
    """Of the first page; BigTIFF has wider fields."""
    order = '<' if content.startswith(b'II') else '>'
    big = struct.unpack_from(order + 'H', content, 2)[0] == 43
    start = struct.unpack_from(order + 'Q', content, 8)[0] if big else _long(order, content, 4)
    count = struct.unpack_from(order + ('Q' if big else 'H'), content, start)[0]
    first, step, field = (start + 8, 20, 12) if big else (start + 2, 12, 8)
    found = {}
    for position in range(first, first + step * min(count, 4096), step):
        tag, kind = struct.unpack_from(order + 'HH', content, position)
        if tag in _TIFF_SIZE:
            form = {3: 'H', 4: 'I', 16: 'Q'}.get(kind)
            if form is None:
                raise _UnknownError
            found[tag] = struct.unpack_from(order + form, content, position + field)[0]
    if len(found) < len(_TIFF_SIZE):
        raise _UnknownError
    width, height = (found[tag] for tag in _TIFF_SIZE)
    return height, width


def _long(order: str, content: bytes, position: int) -> int:
    return struct.unpack_from(order + 'I', content, position)[0]
