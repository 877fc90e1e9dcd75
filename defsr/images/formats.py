"""Kinds of image files: what they are called, by which endings, and who takes them."""

from __future__ import annotations

from typing import NamedTuple


class Format(NamedTuple):
    """A kind of file.

    Attributes:
        name: for messages.
        suffixes: in small letters.
        in_data_sets: data sets take it, too; the others are for photographs alone.
    """

    name: str
    suffixes: tuple[str, ...]
    in_data_sets: bool = True


FORMATS = (
    Format('BMP', ('.bmp',)),
    Format('GIF', ('.gif',), in_data_sets=False),
    Format('JPEG', ('.jpg', '.jpeg')),
    Format('PNG', ('.png',)),
    Format('TIFF', ('.tif', '.tiff')),
    Format('WEBP', ('.webp',)),
    Format('AVIF', ('.avif',), in_data_sets=False),
    Format('HEIC', ('.heic', '.heif', '.hif'), in_data_sets=False),
    Format('JPEG XL', ('.jxl',), in_data_sets=False),
)
PHOTO_FORMATS = tuple(kind.name for kind in FORMATS)
PHOTO_SUFFIXES = tuple(suffix for kind in FORMATS for suffix in kind.suffixes)
DATA_FORMATS = tuple(kind.name for kind in FORMATS if kind.in_data_sets)
DATA_SUFFIXES = tuple(s for kind in FORMATS if kind.in_data_sets for s in kind.suffixes)
