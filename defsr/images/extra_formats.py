"""Photographs as phones and browsers have them: AVIF, HEIC and JPEG XL.

HEIC and JPEG XL want packages of the extra ``formats``. Neither opener is registered with Pillow by
this module, where that can be avoided: what other code of the process opens stays as it is.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import cv2
import numpy as np
from PIL import Image, features

from defsr.images.jxl_header import STARTS, jxl_boxes, jxl_header
from defsr.images.metadata import ORIENTATION

_AVIF = frozenset((b'avif', b'avis'))
_HEIC = frozenset(b'hei' + c for c in (b'c', b'x', b'm', b's')) | frozenset(
    b'hev' + c for c in (b'c', b'x', b'm', b's')
)
_SRGB_LIKE = frozenset((1, 2, 5, 6))  # colour primaries: BT.709 or unsaid, and the two of BT.601
_HDR = frozenset((16, 18))  # transfer functions: PQ, HLG
_INSTALL = "pip install 'defsr[formats]'"
DEEP = 'bits beyond 8 per channel'  # as a loss, in words


@dataclass(frozen=True)
class ExtraFormat:
    """How files of one kind are read.

    Attributes:
        name: for messages.
        missing: () -> what has to be installed, in words; nothing if all is there.
        size: content -> (H, W), without decoding the pixels. Fails for a damaged file.
        open: content -> the picture, whose orientation tag is yet to be applied.
        bits: content and its picture -> per channel; 32 for floating point.
        deep: content and its picture, of more than 8 bit -> (H, W), (H, W, 3) or (H, W, 4) uint16
            over the whole range, or None if the decoder has 8 bit only.
        lost: content and its picture -> what is there and cannot be read, in words.
    """

    name: str
    missing: Callable[[], str]
    size: Callable[[bytes], tuple[int, int]]
    open: Callable[[bytes], Image.Image]
    bits: Callable[[bytes, Image.Image], int]
    deep: Callable[[bytes, Image.Image], np.ndarray | None]
    lost: Callable[[bytes, Image.Image], list[str]]


def extra_format(content: bytes) -> ExtraFormat | None:
    """Which of the three a file is, by how it begins; None for another kind."""
    if content.startswith(STARTS):
        return JPEG_XL
    if content[4:8] != b'ftyp':
        return None
    end = min(int.from_bytes(content[:4], 'big'), 256)
    brands = [content[8:12], *(content[i : i + 4] for i in range(16, end, 4))]
    for brand in brands:  # the first that tells: `mif1` stands for either
        if brand in _AVIF:
            return AVIF
        if brand in _HEIC:
            return HEIC
    return None


def _without(module: str, package: str) -> str:
    try:
        import_module(module)
    except ImportError:
        return f'{package}: {_INSTALL}'
    return ''


def _spread(levels: np.ndarray, bits: int) -> np.ndarray:
    """Levels of 9 to 16 bit -> uint16 over its whole range."""
    return np.rint(levels * (65535 / (2**bits - 1))).astype(np.uint16)


def _other_colours(content: bytes, picture: Image.Image) -> list[str]:
    """What numbers instead of a profile say of the colours is not kept; it matters beyond sRGB."""
    position = content.find(b'colrnclx')
    if 'icc_profile' in picture.info or not 0 <= position < len(content) - 12:
        return []
    primaries, transfer = struct.unpack_from('>HH', content, position + 8)
    return [] if primaries in _SRGB_LIKE and transfer not in _HDR else ['colour space (CICP)']


# -- AVIF -----------------------------------------------------------------------------------------


def _avif(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content), formats=('AVIF',))


def _avif_bits(content: bytes, picture: Image.Image) -> int:
    """Of the record that every AV1 image has; Pillow reports 8."""
    position = content.find(b'av1C')
    flags = content[position + 6] if 0 <= position < len(content) - 6 else 0
    return (12 if flags & 0x20 else 10) if flags & 0x40 else 8


def _avif_deep(content: bytes, picture: Image.Image) -> np.ndarray | None:
    """By OpenCV, where it was built with AVIF; it turns nothing upright."""
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    levels = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    if levels is None or levels.dtype != np.uint16 or levels.shape[:2] != picture.size[::-1]:
        return None
    if levels.ndim == 3:
        levels = levels[..., [2, 1, 0, 3][: levels.shape[2]]]
    return _spread(levels, _avif_bits(content, picture))


AVIF = ExtraFormat(
    'AVIF',
    lambda: '' if features.check('avif') else 'Pillow 11.3 or newer',
    lambda content: _avif(content).size[::-1],
    _avif,
    _avif_bits,
    _avif_deep,
    _other_colours,
)


# -- HEIC -----------------------------------------------------------------------------------------


def _heic(content: bytes) -> Image.Image:
    return import_module('pillow_heif').HeifImageFile(io.BytesIO(content))


def _heic_deep(content: bytes, picture: Image.Image) -> np.ndarray | None:
    file = import_module('pillow_heif').open_heif(
        io.BytesIO(content), convert_hdr_to_8bit=False, hdr_to_16bit=False
    )
    mode, _, bits = file.mode.partition(';')
    if mode not in ('L', 'I', 'RGB', 'RGBA') or not bits.isdecimal():
        return None
    return _spread(np.asarray(file), int(bits))


HEIC = ExtraFormat(
    'HEIC',
    lambda: _without('pillow_heif', 'pillow-heif'),
    lambda content: _heic(content).size[::-1],
    _heic,
    lambda content, picture: picture.info['bit_depth'],
    _heic_deep,
    _other_colours,
)


# -- JPEG XL --------------------------------------------------------------------------------------


def _jxl(content: bytes) -> Image.Image:
    """Decoded at once, as its plugin does: ask for the size before."""
    picture = import_module('pillow_jxl.JpegXLImagePlugin').JXLImageFile(io.BytesIO(content))
    if not picture.jpeg:
        # The decoder has turned it, and by the standard EXIF's orientation counts for nothing
        # then. Of what was a JPEG the plugin gives the JPEG, as it lies.
        with suppress(Exception):  # damaged tags can fail in any way; they say nothing then
            picture.getexif().pop(ORIENTATION, None)
    return picture


def _jxl_lost(content: bytes, picture: Any) -> list[str]:
    if picture.jpeg:
        return []
    return ['XMP data'] if any(name == b'xml ' for name, _ in jxl_boxes(content)) else []


JPEG_XL = ExtraFormat(
    'JPEG XL',
    lambda: _without('pillow_jxl', 'pillow-jxl-plugin'),
    lambda content: jxl_header(content).size,
    _jxl,
    lambda content, picture: jxl_header(content).bits,
    lambda content, picture: np.asarray(picture) if picture.mode.startswith('I;16') else None,
    _jxl_lost,
)


EXTRA_FORMATS = tuple(kind.name for kind in (AVIF, HEIC, JPEG_XL))
