"""People's photographs: read upright, checked and described; written back in kind."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from defsr.images.header import check_megapixels, image_size
from defsr.images.levels import from_levels, to_levels
from defsr.utils.files import atomic_path

READABLE = ('BMP', 'GIF', 'JPEG', 'PNG', 'TIFF', 'WEBP')
# Output extension -> (Pillow's format, largest side it can hold).
WRITABLE = {
    '.png': ('PNG', 2**31 - 1),
    '.jpg': ('JPEG', 65500),
    '.jpeg': ('JPEG', 65500),
    '.tif': ('TIFF', 2**31 - 1),
    '.tiff': ('TIFF', 2**31 - 1),
    '.webp': ('WEBP', 16383),
}
SAVE_OPTIONS = {
    'PNG': {},
    'JPEG': {'quality': 95, 'subsampling': '4:4:4'},
    'TIFF': {'compression': 'tiff_lzw'},
    'WEBP': {'lossless': True},
}
DEEP_FORMATS = ('PNG', 'TIFF')
ALPHA_FORMATS = ('PNG', 'TIFF', 'WEBP')
MAX_MEGAPIXELS = 64.0
_ORIENTATION = 274  # EXIF and TIFF tag
_BITS_PER_SAMPLE = 258  # TIFF tag
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Photo:
    """An image file's pixels, upright, and what is needed to write another one like it.

    Attributes:
        rgb: (1, 3, H, W) float32 in [0, 1]; three equal channels if the file is grey.
        alpha: (1, 1, H, W) float32 in [0, 1], not multiplied into ``rgb``; None if opaque.
        bit_depth: 8 or 16, per channel.
        is_grey: the file has no colour.
        path: where it came from.
        icc_profile: the embedded colour profile, for ``rgb`` or grey as the file has it.
    """

    rgb: Tensor
    alpha: Tensor | None
    bit_depth: int
    is_grey: bool
    path: Path
    icc_profile: bytes | None = None


def read_photo(path: str | Path, max_megapixels: float = MAX_MEGAPIXELS) -> Photo:
    """Read a photograph; its EXIF orientation is applied, an animation's first frame is taken.

    Args:
        path: BMP, GIF, JPEG, PNG, TIFF or WebP; 8 or 16 bit per channel, colour or grey, with or
            without alpha.
        max_megapixels: larger files are refused by their header, before decoding.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for what is no such image, is damaged, too large or of another depth.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f'Image {path} does not exist or is no file.')
    data = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(data), formats=READABLE) as picture:
                check_megapixels(path, picture.size[::-1], max_megapixels)
                if data.startswith(b'\xff\xd8'):
                    image_size(data, str(path))  # Pillow may fill up a torn JPEG with grey
                return _decode(path, data, picture)
        except Image.DecompressionBombError as error:
            raise ValueError(f'{path} is too large to be read safely: {error}') from None
        except Image.UnidentifiedImageError:
            raise ValueError(
                f'{path} is no image that can be read. Known: {", ".join(READABLE)}.'
            ) from None
        except (OSError, SyntaxError, EOFError, struct.error, zlib.error) as error:
            raise ValueError(f'{path} is damaged: {error}') from None


def write_photo(path: str | Path, rgb: Tensor, like: Photo) -> None:
    """Write ``rgb`` atomically, in the depth and kind of ``like`` as far as the format allows.

    16 bit for PNG and TIFF, else 8 bit; grey if ``like`` is; ``like.alpha`` unless for JPEG; the
    colour profile. ``losses`` tells what does not fit. Values are clamped and rounded.

    Args:
        path: .png, .jpg, .jpeg (quality 95), .tif, .tiff or .webp (lossless).
        rgb: (1, 3, H, W) in [0, 1].
        like: depth, kind, profile and alpha; an alpha must have the size of ``rgb``.

    Raises:
        ValueError: for another extension or size, see ``check_writable``.
        OSError: if the file cannot be written.
    """
    format_name = check_writable(path, tuple(rgb.shape[-2:]))
    channels = [to_grey(rgb) if like.is_grey else rgb]
    if like.alpha is not None and format_name in ALPHA_FORMATS:
        if like.alpha.shape[-2:] != rgb.shape[-2:]:
            raise ValueError(
                f'alpha is {tuple(like.alpha.shape[-2:])}, but the image is '
                f'{tuple(rgb.shape[-2:])} (HxW): enlarge it first.'
            )
        channels.append(like.alpha.to(rgb))
    deep = like.bit_depth == 16 and format_name in DEEP_FORMATS
    levels = to_levels(torch.cat(channels, dim=1), 16 if deep else 8)
    profile = like.icc_profile if _keeps_profile(like, format_name) else None
    encode = _encode_16 if deep else _encode_8
    content = encode(levels, format_name, profile)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


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
    told = []
    if like.alpha is not None and format_name not in ALPHA_FORMATS:
        told.append(f'{format_name} has no transparency: the alpha channel is dropped.')
    if like.bit_depth == 16 and format_name not in DEEP_FORMATS:
        told.append(f'{format_name} has 8 bit per channel: 16 bit are rounded to 8.')
    if like.icc_profile and not _keeps_profile(like, format_name):
        told.append(f'The colour profile of {like.path.name} is dropped in this {format_name}.')
    return told


def to_grey(rgb: Tensor) -> Tensor:
    """(N,3,H,W) -> (N,1,H,W), luma as of ITU-R BT.601."""
    return (rgb * rgb.new_tensor(_LUMA).view(3, 1, 1)).sum(dim=1, keepdim=True)


def _decode(path: Path, data: bytes, picture: Image.Image) -> Photo:
    bits = _bits_per_channel(data, picture)
    if bits not in (1, 2, 4, 8, 16):
        raise ValueError(f'{path} has {bits} bit per channel, but must have 8 or 16.')
    profile = picture.info.get('icc_profile')
    is_grey = picture.mode in ('1', 'L', 'LA') or picture.mode.startswith('I;16')
    if bits == 16:  # Pillow opens grey with alpha as RGBA: the header's colour type knows
        is_grey = is_grey or (picture.format == 'PNG' and data[25] in (0, 4))
        levels = _decode_16(path, data, picture)
    else:
        upright = ImageOps.exif_transpose(picture)
        mode = ('L' if is_grey else 'RGB', 'LA' if is_grey else 'RGBA')
        levels = np.asarray(upright.convert(mode[upright.has_transparency_data]))
    image = from_levels(levels)
    num_colours = 3 if image.shape[1] > 2 else 1
    rgb, alpha = image[:, :num_colours], image[:, num_colours:]
    alpha = alpha.contiguous() if alpha.shape[1] else None
    space = {True: b'GRAY', False: b'RGB '}[is_grey]
    if profile and profile[16:20] != space:
        profile = None  # CMYK's, for instance, does not describe the converted pixels
    depth = 16 if bits == 16 else 8
    return Photo(rgb.expand(-1, 3, -1, -1).contiguous(), alpha, depth, is_grey, path, profile)


def _bits_per_channel(data: bytes, picture: Image.Image) -> int:
    """From the file's header, since Pillow reports 16-bit colour as 8."""
    if picture.format == 'PNG':
        return data[24]
    if picture.format == 'TIFF':
        return max(picture.tag_v2.get(_BITS_PER_SAMPLE, (1,)))
    return 8


def _decode_16(path: Path, data: bytes, picture: Image.Image) -> np.ndarray:
    """(H,W), (H,W,3) or (H,W,4) uint16, upright; by OpenCV, since Pillow keeps 8 bit of colour."""
    orientation = picture.getexif().get(_ORIENTATION, 1)
    picture.load()  # raises for a damaged file, where OpenCV may return half an image
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    levels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if levels is None or levels.dtype != np.uint16 or levels.ndim == 3 and levels.shape[2] < 3:
        raise ValueError(f'{path} is a kind of 16-bit image that cannot be read: save it as PNG.')
    if levels.ndim == 3:
        levels = levels[..., [2, 1, 0, 3][: levels.shape[2]]]
    # OpenCV turns a TIFF upright whatever the flags say, and leaves a PNG as stored.
    return levels if picture.format == 'TIFF' else _upright(levels, orientation)


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Undo EXIF orientation 2..8 of (H,W) or (H,W,C)."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return image


def _keeps_profile(like: Photo, format_name: str) -> bool:
    """Not in a 16-bit TIFF, which OpenCV writes; a grey one not where grey is stored as RGB."""
    deep = like.bit_depth == 16
    if deep and format_name == 'TIFF':
        return False
    stored_as_rgb = format_name == 'WEBP' or (deep and like.alpha is not None)
    return not (like.is_grey and stored_as_rgb and format_name != 'JPEG')


def _encode_8(levels: np.ndarray, format_name: str, profile: bytes | None) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(levels)
    image.save(buffer, format_name, icc_profile=profile, **SAVE_OPTIONS[format_name])
    return buffer.getvalue()


def _encode_16(levels: np.ndarray, format_name: str, profile: bytes | None) -> bytes:
    if levels.ndim == 3:  # RGB(A) or grey with alpha -> OpenCV's BGR(A)
        order = {2: [0, 0, 0, 1], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[levels.shape[2]]
        levels = np.ascontiguousarray(levels[..., order])
    done, content = cv2.imencode('.png' if format_name == 'PNG' else '.tiff', levels)
    if not done:
        raise OSError(f'OpenCV could not encode a 16-bit {format_name}.')
    content = content.tobytes()
    if profile:
        body = b'iCCP' + b'ICC profile\0\0' + zlib.compress(profile)
        chunk = struct.pack('>I', len(body) - 4) + body + struct.pack('>I', zlib.crc32(body))
        header = 33  # signature and IHDR, before which nothing may stand
        content = content[:header] + chunk + content[header:]
    return content
