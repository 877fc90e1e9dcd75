"""What an image file says before it is decoded: its size, and whether all of it is there.

The size is the one that the decoder will make room for, whatever else a file says of itself.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable, Iterator

from PIL.BmpImagePlugin import BmpImageFile
from PIL.Image import DecompressionBombError
from PIL.WebPImagePlugin import WebPImageFile

from defsr.images.formats import DATA_FORMATS

MAX_MEGAPIXELS = 128.0
_JPEG_SIZE = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # "start of frame" markers
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_ORIENTATION = 256, 257, 274  # tags
_TIFF_TILE = (322, 323)
_TIFF_KINDS = {1: 'B', 3: 'H', 4: 'I', 8: 'h', 9: 'i', 16: 'Q'}  # of whole numbers
_MOST_TILE = 2**24  # pixels of a tile that is larger than the image
_RLE_PIXELS = 128  # that a byte of a BMP can stand for, at most
_SHORTEST = 26  # bytes, the head of a WebP or BMP file


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

    Returns:
        The sides that OpenCV's decoder gives the image: of all orientation tags it follows those
        of TIFF alone.

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
    except DecompressionBombError as error:
        raise ValueError(f'{path} is too large to be read safely: {error}') from None
    except (OSError, SyntaxError, LookupError, TypeError, ValueError):
        raise ValueError(
            f'{path} cannot be read as an image ({", ".join(DATA_FORMATS)}). '
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
    for start, reader in _READERS.items():
        if re.match(start, content, re.DOTALL):
            if len(content) < _SHORTEST:
                raise _CutOffError
            return reader
    raise SyntaxError


def _png_size(content: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from('>II', content, 16)
    position, kind = 8, b''
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
    bmp = BmpImageFile(io.BytesIO(content))
    if bmp.width * bmp.height > _RLE_PIXELS * len(content):
        raise _CutOffError
    return bmp.size[::-1]


def _webp_size(content: bytes) -> tuple[int, int]:
    if struct.unpack_from('<I', content, 4)[0] + 8 > len(content):
        raise _CutOffError
    return WebPImageFile(io.BytesIO(content)).size[::-1]


def _tiff_size(content: bytes) -> tuple[int, int]:
    """Of the first page. Decoders choose differently where a tag is given twice: refused."""
    tags: dict[int, int] = {}
    for tag, value in _tiff_tags(content):
        if tag in tags:
            raise SyntaxError
        tags[tag] = value
    size = tags[_TIFF_HEIGHT], tags[_TIFF_WIDTH]
    if tags.get(_TIFF_TILE[0], 0) * tags.get(_TIFF_TILE[1], 0) > max(size[0] * size[1], _MOST_TILE):
        raise SyntaxError
    return size[::-1] if tags.get(_TIFF_ORIENTATION, 1) in (5, 6, 7, 8) else size


def _tiff_tags(content: bytes) -> Iterator[tuple[int, int]]:
    """Tags of the first page that decide about its size, each with its value."""
    order, is_big = '<>'[content[:1] == b'M'], b'+' in content[2:4]
    head, entry, length = ('Q', 'HHQ', 20) if is_big else ('I', 'HHI', 12)
    (start,) = struct.unpack_from(order + head, content, 8 if is_big else 4)
    number_kind = order + ('Q' if is_big else 'H')
    (number,) = struct.unpack_from(number_kind, content, start)
    start += struct.calcsize(number_kind)
    for position in range(start, start + number * length, length):
        tag, kind, count = struct.unpack_from(order + entry, content, position)
        if tag in (_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_ORIENTATION, *_TIFF_TILE):
            if count != 1 or kind not in _TIFF_KINDS:
                raise SyntaxError
            place = position + struct.calcsize(order + entry)
            yield tag, struct.unpack_from(order + _TIFF_KINDS[kind], content, place)[0]


_READERS = {  # by how files begin
    rb'\x89PNG\r\n\x1a\n': _png_size,
    rb'\xff\xd8\xff': _jpeg_size,
    rb'BM': _bmp_size,
    rb'RIFF.{4}WEBP': _webp_size,
    rb'II[*+]\0|MM\0[*+]': _tiff_size,
}
