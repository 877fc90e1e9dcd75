"""What an image file says beside its pixels, kept in a form that fits the enlarged image."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from PIL.Image import Exif, Image
from PIL.PngImagePlugin import PngInfo

ORIENTATION = 274  # EXIF and TIFF tag
_XMP_TAG = 700
_EXIF_BLOCK, _GPS_BLOCK, _INTEROP_BLOCK = 0x8769, 0x8825, 0xA005
_RESOLUTION, _INCHES = (282, 283, 296), 2  # across, down, unit
_PROFILE_TAG = 34675
# Of EXIF's and TIFF's tags those that say how the pixels are stored, and Pillow keeps in `info`.
_LAYOUT = frozenset(
    (*range(254, 260), 262, 263, 264, 265, 266, 273, 277, 278, 279, 280, 281, 284, *range(288, 294),
     301, 317, 318, 319, 320, *range(321, 326), 330, 332, 334, 336, 338, 339, 340, 341, 342, 347,
     *range(512, 522), *range(529, 533), _XMP_TAG, 33723, 34377, 34675, 37724, 50838, 50839)
)  # fmt: skip
_SIZES = frozenset((0xA002, 0xA003))  # PixelXDimension, PixelYDimension
_XMP_ORIENTATION = re.compile(
    rb'\s*tiff:Orientation="[^"<>]*"|<tiff:Orientation>[^<>]*</tiff:Orientation>'
)
_XMP_KEY = 'XML:com.adobe.xmp'
_JPEG_XMP = b'http://ns.adobe.com/xap/1.0/\0'
_JPEG_SEGMENT = 65533
_JPEG_LIMITS = {
    'icc_profile': 255 * (_JPEG_SEGMENT - 14), 'exif': _JPEG_SEGMENT,
    'xmp': _JPEG_SEGMENT - len(_JPEG_XMP),
}  # fmt: skip
_WORDS = {'icc_profile': 'colour profile', 'exif': 'EXIF data', 'xmp': 'XMP data'}
_PNG_START = b'\x89PNG\r\n\x1a\n'
_COLOUR_SPACES = {True: b'GRAY', False: b'RGB '}  # by whether an image is grey


@dataclass(frozen=True)
class Metadata:
    """Colour profile, EXIF data, XMP, texts and resolution.

    Attributes:
        icc_profile: of the pixels, RGB or grey as they are.
        exif: a block as Pillow has it; upright, without sizes and without a thumbnail.
        xmp: the packet, without an orientation.
        text: a PNG's texts by their keys.
        dpi: pixels per inch, across and down.
        damaged: what was there and could not be read, in words.
    """

    icc_profile: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    text: Mapping[str, str] = field(default_factory=dict)
    dpi: tuple[float, float] | None = None
    damaged: tuple[str, ...] = ()

    @classmethod
    def of(cls, picture: Image, is_grey: bool) -> Metadata:
        """Of a decoded picture whose pixels are taken as grey or RGB."""
        info, damaged = picture.info, []
        profile = info.get('icc_profile') or None
        if profile is not None and not _is_profile(profile):
            profile = None
            damaged.append('colour profile')
        if profile and profile[16:20] != _COLOUR_SPACES[is_grey]:
            profile = None  # CMYK's, for instance, does not describe the converted pixels
        exif, dpi = None, _dpi(info.get('dpi', ()))
        try:
            tags = _nested(picture.getexif())
            exif, dpi = _packed(_upright(tags)), dpi or _dpi(_resolution(tags))
        except Exception:  # damaged tags can fail in any way
            damaged.append('EXIF data')
        xmp = info.get('xmp') or info.get(_XMP_KEY)
        xmp = xmp.encode() if isinstance(xmp, str) else xmp
        xmp = _XMP_ORIENTATION.sub(b'', xmp) if isinstance(xmp, bytes) else None
        text = {str(key): value for key, value in info.items() if _is_text(key, value)}
        return cls(profile, exif, xmp, text, dpi, tuple(damaged))

    def info(self) -> dict[str, object]:
        """As ``info`` of a Pillow image, without what is not there."""
        entries = {
            'icc_profile': self.icc_profile, 'exif': self.exif, 'xmp': self.xmp, 'dpi': self.dpi
        }  # fmt: skip
        return {key: value for key, value in entries.items() if value} | dict(self.text)

    def for_format(self, name: str) -> tuple[dict[str, object], list[str]]:
        """What Pillow's ``save`` needs to keep this in a format, and in words what it cannot keep.

        Args:
            name: ``PNG``, ``JPEG``, ``TIFF`` or ``WEBP``.
        """
        kept: dict[str, object] = {key: getattr(self, key) for key in (*_WORDS, 'dpi')}
        lost = []
        if name == 'JPEG':
            for key, limit in _JPEG_LIMITS.items():
                if len(getattr(self, key) or b'') > limit:
                    kept[key] = None
                    lost.append(_WORDS[key])
            if self.xmp and kept['xmp']:
                packet = _JPEG_XMP + self.xmp
                kept['extra'] = struct.pack('>BBH', 255, 225, len(packet) + 2) + packet
        elif name == 'WEBP':
            kept['exif'] = _packed(self._tags())
        elif name == 'TIFF':
            kept = {'tags': self._tiff_tags()}
        if name == 'PNG':
            kept['pnginfo'] = self._png_texts()
        elif self.text:
            lost.append(f'texts ({", ".join(list(self.text)[:5])})')
        if name != 'WEBP':
            kept.pop('xmp', None)
        return {key: value for key, value in kept.items() if value}, lost

    def _png_texts(self) -> PngInfo:
        texts = PngInfo()
        for key, value in self.text.items():
            texts.add_text(key, value, zip=len(value) > 1024)
        if self.xmp:
            texts.add_itxt(_XMP_KEY, self.xmp.decode(errors='replace'))
        return texts

    def _tags(self) -> dict[int, Any]:
        """The EXIF data, with the resolution where they do not have it."""
        tags = Exif()
        tags.load(self.exif or b'')
        resolution = zip(_RESOLUTION, (*self.dpi, _INCHES), strict=True) if self.dpi else ()
        return {**dict(resolution), **_nested(tags)}

    def _tiff_tags(self) -> dict[int, Any]:
        more = {_XMP_TAG: self.xmp, _PROFILE_TAG: self.icc_profile}
        return self._tags() | {tag: value for tag, value in more.items() if value}


def orientation_of(picture: Image) -> int:
    """Of a decoded picture, 1 to 8; 1 where it is damaged or not said."""
    try:
        orientation = picture.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged tags can fail in any way
        return 1
    return orientation if orientation in range(1, 9) else 1


def without_metadata(content: bytes) -> bytes:
    """A PNG's or JPEG's bytes without what is beside the image; other files as they are."""
    if content.startswith(_PNG_START):
        chunks = png_chunks(content)
        return _PNG_START + b''.join(c for c in chunks if c[4:5].isupper() or c[4:8] == b'tRNS')
    if content.startswith(b'\xff\xd8'):
        return b'\xff\xd8' + b''.join(_jpeg_essentials(content))
    return content


def png_chunks(content: bytes) -> Iterator[bytes]:
    """Each chunk of a PNG with its length, name and sum; what follows a torn one is left out."""
    position = len(_PNG_START)
    while len(content) - position >= 12:
        end = position + 12 + struct.unpack_from('>I', content, position)[0]
        yield content[position:end]
        position = end


def _jpeg_essentials(content: bytes) -> Iterator[bytes]:
    """Segments up to the scan without APP1 to APP13, APP15 and comments, then all the rest."""
    position = 2
    while len(content) - position >= 4 and content[position] == 0xFF:
        marker, length = struct.unpack_from('>BH', content, position + 1)
        if marker == 0xDA:
            break
        end = position + 2 + length
        if marker not in (0xFE, 0xEF, *range(0xE1, 0xEE)):
            yield content[position:end]
        position = end
    yield content[position:]


def _upright(tags: Mapping[int, Any]) -> dict[int, Any]:
    """Those that hold for the result, too: no layout, no sizes, no thumbnail, orientation 1."""
    kept = {tag: value for tag, value in tags.items() if tag not in _LAYOUT}
    if _EXIF_BLOCK in kept:
        kept[_EXIF_BLOCK] = {k: v for k, v in kept[_EXIF_BLOCK].items() if k not in _SIZES}
    return kept | {ORIENTATION: 1} if kept else {}


def _resolution(tags: Mapping[int, Any]) -> tuple[float, ...]:
    """Across and down, for a format whose files say it nowhere else."""
    across, down, unit = (tags.get(tag, 0) for tag in _RESOLUTION)
    inch = {2: 1.0, 3: 2.54}.get(unit, 0.0)
    return across * inch, down * inch


def _nested(exif: Exif) -> dict[int, Any]:
    """Tags by their numbers, those of the blocks inside as dictionaries."""
    tags = {tag: value for tag, value in exif.items() if tag not in (_EXIF_BLOCK, _GPS_BLOCK)}
    for block in (_EXIF_BLOCK, _GPS_BLOCK):
        inner = dict(exif.get_ifd(block))
        if inner.pop(_INTEROP_BLOCK, None):
            with suppress(ValueError):  # Pillow closes TIFF files without having read it
                inner[_INTEROP_BLOCK] = dict(exif.get_ifd(_INTEROP_BLOCK))
        if inner:
            tags[block] = inner
    return tags


def _packed(tags: Mapping[int, Any]) -> bytes | None:
    """As Pillow has EXIF data; None without any."""
    exif = Exif()
    for tag, value in tags.items():
        exif[tag] = value
    return exif.tobytes() if tags else None


def _is_profile(profile: object) -> bool:
    """Whether it is as long as it says, and signed."""
    if not isinstance(profile, bytes) or len(profile) < 132 or profile[36:40] != b'acsp':
        return False
    return struct.unpack_from('>I', profile)[0] == len(profile)


def _is_text(key: object, value: object) -> bool:
    """Of a PNG; ``compression`` is a TIFF's, raw profiles are copies of what has its own place."""
    if not isinstance(key, str) or not isinstance(value, str):
        return False
    return key not in ('compression', _XMP_KEY) and not key.startswith('Raw profile type')


def _dpi(value: Iterable[Any]) -> tuple[float, float] | None:
    """Two sound numbers, or None; 1 is what Pillow says of a TIFF that says nothing."""
    try:
        across, down = (float(side) for side in value)
    except (TypeError, ValueError, ArithmeticError):
        return None
    return (across, down) if 1 < across < 2**16 and 1 < down < 2**16 else None
