"""People's photographs: read upright, checked and described, from files and from Pillow."""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from defsr.images.extra_formats import DEEP, EXTRA_FORMATS, ExtraFormat, extra_format
from defsr.images.formats import PHOTO_FORMATS
from defsr.images.header import check_megapixels, image_size
from defsr.images.levels import from_levels
from defsr.images.metadata import Metadata, orientation_of, without_metadata
from defsr.utils.paths import expanded

# Of the others Pillow's own openers, whatever else is registered with it.
_PILLOWS = tuple(name for name in PHOTO_FORMATS if name not in EXTRA_FORMATS)
MAX_MEGAPIXELS = 64.0
_BITS_PER_SAMPLE = 258  # TIFF tag
_LUMA = (0.299, 0.587, 0.114)
_ONE_AT_A_TIME = threading.RLock()  # the filters of warnings belong to the whole process


@dataclass(frozen=True)
class Photo:
    """An image's pixels, upright, and what is needed to make another one like it.

    Attributes:
        rgb: (1, 3, H, W) float32 in [0, 1]; three equal channels if the image is grey.
        alpha: (1, 1, H, W) float32 in [0, 1], not multiplied into ``rgb``; None if opaque.
        bit_depth: 8 or 16, per channel.
        is_grey: the image has no colour.
        path: where it came from, for messages.
        metadata: colour profile, EXIF data and the like; all of them hold for any size.
    """

    rgb: Tensor
    alpha: Tensor | None
    bit_depth: int
    is_grey: bool
    path: Path
    metadata: Metadata = field(default_factory=Metadata)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        height, width = self.rgb.shape[-2:]
        return height, width


def read_photo(path: str | os.PathLike[str], max_megapixels: float = MAX_MEGAPIXELS) -> Photo:
    """Read a photograph; its EXIF orientation is applied, an animation's first frame is taken.

    Args:
        path: BMP, GIF, JPEG, PNG, TIFF, WebP, AVIF, HEIC or JPEG XL, whatever its name ends in; 8
            to 16 bit per channel, colour or grey, with or without alpha. More than 8 become 16.
        max_megapixels: larger files are refused by their header, before decoding.

    Returns:
        The photo. Metadata that are damaged, or that Pillow refuses to read, are left out, and
        ``metadata.damaged`` says so, as it does of what a decoder does not give.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for what is no such image, is damaged, too large or of another depth, and
            without the package that reads it.
    """
    path = expanded(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f'Image {str(path):.300} does not exist or is no file.')
    data = path.read_bytes()
    try:
        return _read(path, data, max_megapixels)
    except ValueError:
        essential = without_metadata(data)
        if essential == data:
            raise
        try:
            photo = _read(path, essential, max_megapixels)
        except ValueError:
            photo = None
        if photo is None:
            raise
    return replace(photo, metadata=Metadata(damaged=('metadata',)))


def photo_of(name: str, picture: Image.Image, max_megapixels: float = MAX_MEGAPIXELS) -> Photo:
    """A Pillow image, of the frame where it stands, as ``read_photo`` takes a file.

    Args:
        name: for messages.
        picture: of any mode that Pillow converts to RGB, or I;16; it is not changed.
        max_megapixels: see ``read_photo``.

    Raises:
        ValueError: for a mode of another kind, for a file that turns out to be damaged, and for
            too large an image.
    """
    if 0 in picture.size:
        raise ValueError(f'{name} has no pixels: {picture.height}x{picture.width} (HxW).')
    check_megapixels(name, picture.size[::-1], max_megapixels)
    if picture.mode in ('I', 'F', 'LAB'):
        raise ValueError(
            f'{name} is a Pillow image of mode {picture.mode}, but must be one that Pillow can '
            'convert to RGB, or I;16. Give a NumPy array instead.'
        )
    bits = 16 if picture.mode.startswith('I;16') else 8
    with _explained(name):
        picture.load()
        levels = np.asarray(picture) if bits == 16 else _levels_8(picture)
        return _photo(Path(name), picture, levels, bits)


def to_grey(rgb: Tensor) -> Tensor:
    """(N,3,H,W) -> (N,1,H,W), luma as of ITU-R BT.601."""
    return (rgb * rgb.new_tensor(_LUMA).view(3, 1, 1)).sum(dim=1, keepdim=True)


@contextmanager
def _explained(name: str | Path) -> Iterator[None]:
    """What Pillow raises becomes one line that names the image; its warnings are not shown."""
    with _ONE_AT_A_TIME, warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            yield
        except Image.DecompressionBombError as error:
            raise ValueError(f'{name} is too large to be read safely: {error}') from None
        except Image.UnidentifiedImageError:
            raise ValueError(
                f'{name} is no image that can be read. Known: {", ".join(PHOTO_FORMATS)}.'
            ) from None
        except MemoryError:
            raise
        except Exception as error:  # a damaged file can fail in any way
            raise ValueError(f'{name} is damaged: {" ".join(str(error).split())}') from None


def _read(path: Path, data: bytes, max_megapixels: float) -> Photo:
    extra = extra_format(data)
    if extra is not None:
        return _read_extra(path, data, extra, max_megapixels)
    with _explained(path):
        picture = Image.open(io.BytesIO(data), formats=_PILLOWS)
    with picture:
        check_megapixels(path, picture.size[::-1], max_megapixels)
        if picture.format in ('JPEG', 'TIFF'):
            # Pillow may fill up a torn JPEG with grey, and OpenCV see another size in a TIFF.
            check_megapixels(path, image_size(data, str(path)), max_megapixels)
        with _explained(path):
            bits = _bits_per_channel(data, picture)
        if bits not in (1, 2, 4, 8, 16):
            raise ValueError(f'{path} has {bits} bit per channel, but must have 8 or 16.')
        with _explained(path):
            picture.load()  # raises for a damaged file, where OpenCV may return half an image
            levels = _decode_16(data) if bits == 16 else _levels_8(picture)
            if levels is not None:
                # OpenCV turns a TIFF upright, and so does Pillow: its orientation is 1 by now.
                return _photo(path, picture, levels, bits, _is_grey(data, picture, bits))
    raise ValueError(f'{path} is a kind of 16-bit image that cannot be read: save it as PNG.')


def _read_extra(path: Path, data: bytes, extra: ExtraFormat, max_megapixels: float) -> Photo:
    missing = extra.missing()
    if missing:
        raise ValueError(f'{path} is a photo in {extra.name}, which needs {missing}')
    with _explained(path):
        size = extra.size(data)
    check_megapixels(path, size, max_megapixels)
    with _explained(path):
        picture = extra.open(data)
        bits = extra.bits(data, picture)
    if bits > 16:
        raise ValueError(f'{path} has {bits} bit per channel, but must have 8 to 16.')
    with picture, _explained(path):
        picture.load()
        deep = extra.deep(data, picture) if bits > 8 else None
        lost = extra.lost(data, picture) + [DEEP] * (bits > 8 and deep is None)
        levels = _levels_8(picture) if deep is None else deep
        photo = _photo(path, picture, levels, 8 if deep is None else 16)
    told = (*photo.metadata.damaged, *lost)
    return replace(photo, metadata=replace(photo.metadata, damaged=told))


def _photo(
    path: Path, picture: Image.Image, levels: np.ndarray, bits: int, is_grey: bool | None = None
) -> Photo:
    """Of the levels as they are stored, and what the picture says about them."""
    image = from_levels(_upright(levels, orientation_of(picture)))
    num_colours = 3 if image.shape[1] > 2 else 1
    is_grey = num_colours == 1 if is_grey is None else is_grey
    rgb, alpha = image[:, :num_colours], image[:, num_colours:]
    return Photo(
        rgb.expand(-1, 3, -1, -1).contiguous(),
        alpha.contiguous() if alpha.shape[1] else None,
        16 if bits == 16 else 8,
        is_grey,
        path,
        Metadata.of(picture, is_grey),
    )


def _bits_per_channel(data: bytes, picture: Image.Image) -> int:
    """From the file's header, since Pillow reports 16-bit colour as 8."""
    if picture.format == 'PNG':
        return data[24]
    if isinstance(picture, TiffImageFile):
        return max(picture.tag_v2.get(_BITS_PER_SAMPLE, (1,)))
    return 8


def _is_grey(data: bytes, picture: Image.Image, bits: int) -> bool:
    """Pillow opens 16-bit grey with alpha as RGBA: the colour type in the header knows."""
    if bits == 16 and picture.format == 'PNG':
        return data[25] in (0, 4)
    return picture.mode in ('1', 'L', 'LA') or picture.mode.startswith('I;16')


def _levels_8(picture: Image.Image) -> np.ndarray:
    """(H,W), (H,W,2), (H,W,3) or (H,W,4) uint8, as stored."""
    is_grey = picture.mode in ('1', 'L', 'LA', 'La')
    mode = ('L' if is_grey else 'RGB', 'LA' if is_grey else 'RGBA')
    return np.asarray(picture.convert(mode[picture.has_transparency_data]))


def _decode_16(data: bytes) -> np.ndarray | None:
    """(H,W), (H,W,3) or (H,W,4) uint16 by OpenCV, since Pillow keeps 8 bit of colour."""
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    levels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if levels is None or levels.dtype != np.uint16 or levels.ndim == 3 and levels.shape[2] < 3:
        return None
    return levels[..., [2, 1, 0, 3][: levels.shape[2]]] if levels.ndim == 3 else levels


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Undo EXIF orientation 2..8 of (H,W) or (H,W,C)."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return image
