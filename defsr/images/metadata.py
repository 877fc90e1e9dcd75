"""What an image file says beside its pixels, kept in a form that fits the enlarged image."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from PIL.Image import Exif, Image
from PIL.PngImagePlugin import PngInfo

ORIENTATION = 274  # EXIF and TIFF tag
_XMP_TAG = 700
_EXIF_BLOCK, _GPS_BLOCK, _INTEROP_BLOCK = 0x8769, 0x8825, 0xA005
_RESOLUTION = {'x': 282, 'y': 283, 'unit': 296}
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
        try:
            exif = _upright_exif(picture.getexif())
        except Exception:  # damaged tags can fail in any way
            exif = None
            damaged.append('EXIF data')
        xmp = info.get('xmp') or info.get(_XMP_KEY)
        xmp = xmp.encode() if isinstance(xmp, str) else xmp
        xmp = _XMP_ORIENTATION.sub(b'', xmp) if isinstance(xmp, bytes) else None
        text = {key: value for key, value in info.items() if _is_text(key, value)}
        return cls(profile, exif, xmp, text, _dpi(info.get('dpi')), tuple(damaged))

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
        lost = list(self.damaged)
        if name == 'JPEG':
            for key, limit in _JPEG_LIMITS.items():
                if len(getattr(self, key) or b'') > limit:
                    kept[key] = None
                    lost.append(_WORDS[key])
            if kept['xmp']:
                packet = _JPEG_XMP + self.xmp
                kept['extra'] = struct.pack('>BBH', 255, 225, len(packet) + 2) + packet
        elif name == 'WEBP':
            kept['exif'] = self._exif_with_resolution()
        elif name == 'TIFF' and (self.xmp or self.exif):
            kept['exif'] = tags = Exif()
            tags.load(self.exif or b'')
            if self.xmp:
                tags[_XMP_TAG] = self.xmp
        if name == 'PNG':
            kept['pnginfo'] = self._png_texts()
        elif self.text:
            lost.append(f'texts ({", ".join(list(self.text)[:5])})')
        wanted = (*kept,) if name == 'WEBP' else [key for key in kept if key != 'xmp']
        return {key: kept[key] for key in wanted if kept[key]}, lost

    def words(self) -> list[str]:
        """All that it is, for a message."""
        found = [words for key, words in _WORDS.items() if getattr(self, key)]
        return [*self.damaged, *found, *(['texts'] if self.text else [])]

    def _png_texts(self) -> PngInfo:
        texts = PngInfo()
        for key, value in self.text.items():
            texts.add_text(key, value, zip=len(value) > 1024)
        if self.xmp:
            texts.add_itxt(_XMP_KEY, self.xmp.decode(errors='replace'))
        return texts

    def _exif_with_resolution(self) -> bytes | None:
        """For a format that has no other place for it."""
        if not self.dpi:
            return self.exif
        tags = Exif()
        tags.load(self.exif or b'')
        for name, value in zip(_RESOLUTION, (*self.dpi, 2), strict=True):  # 2: inches
            if _RESOLUTION[name] not in tags:
                tags[_RESOLUTION[name]] = value
        return tags.tobytes()


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


def _upright_exif(exif: Exif) -> bytes | None:
    """The tags that hold for the result, too: no layout, no sizes, no thumbnail, orientation 1."""
    kept = Exif()
    blocks = (_EXIF_BLOCK, _GPS_BLOCK)
    for tag, value in exif.items():
        if tag not in _LAYOUT and tag not in blocks:
            kept[tag] = value
    for tag in blocks:
        block = {k: v for k, v in exif.get_ifd(tag).items() if k not in _SIZES}
        if _INTEROP_BLOCK in block:
            block[_INTEROP_BLOCK] = dict(exif.get_ifd(_INTEROP_BLOCK))
        if block:
            kept[tag] = block
    if ORIENTATION in kept:
        kept[ORIENTATION] = 1
    return kept.tobytes() if dict(kept) else None


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


def _dpi(value: object) -> tuple[float, float] | None:
    try:
        across, down = (float(side) for side in value)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    sound = all(math.isfinite(side) and 0 < side < 2**16 for side in (across, down))
    return (across, down) if sound else None
