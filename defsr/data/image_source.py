"""The images behind one ``dataroot_*`` option: a folder or an LMDB, read the same way."""

from __future__ import annotations

import os
from os import path as osp
from pathlib import PurePosixPath

import cv2
import numpy as np
from torch import Tensor

from defsr.data.lmdb_reader import check_lmdb, read_lmdb, read_meta
from defsr.data.roots import Backend
from defsr.images.formats import DATA_SUFFIXES
from defsr.images.header import MAX_MEGAPIXELS, check_megapixels, image_size
from defsr.images.levels import from_levels
from defsr.utils.checks import check_text
from defsr.utils.paths import expanded


def image_key(name: str) -> str:
    """A name without its image extension: the LMDB key. Other dots stay (``a.b.png``: ``a.b``)."""
    path = PurePosixPath(name)
    return str(path.with_suffix('')) if path.suffix.lower() in DATA_SUFFIXES else name


def decode_array(
    content: bytes, path: str, max_megapixels: float = MAX_MEGAPIXELS, option: str = ''
) -> np.ndarray:
    """File content -> (H, W), (H, W, 3) BGR or (H, W, 4) BGRA, uint8 or uint16.

    An orientation tag is ignored: data sets are measured in stored pixels.

    Args:
        content: of a PNG, JPEG, BMP, TIFF or WebP; of an animation the first picture is taken.
        path: for messages.
        max_megapixels: larger images are refused by their header.
        option: the block that holds ``max_megapixels``, for messages.

    Raises:
        ValueError: for what is no image, is cut off, damaged or too large, and for pixels that
            are neither 8 nor 16 bit.
    """
    option = f'{option}:max_megapixels' if option else 'max_megapixels'
    check_megapixels(path, image_size(content, path), max_megapixels, option)
    image = _decode_quietly(content)
    if image is None:
        raise ValueError(
            f'{path} is damaged and cannot be read as an image. Replace the file or leave it out.'
        )
    if image.dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f'{path} has {image.dtype} pixels, but must have 8 or 16 bits each. Convert it.'
        )
    if image.ndim == 3 and image.shape[2] > 4:
        raise ValueError(f'{path} has {image.shape[2]} channels, but must have 1 to 4. Convert it.')
    return image


def _decode_quietly(content: bytes) -> np.ndarray | None:
    """None for what cannot be decoded; OpenCV would tell of it on stderr, without the path."""
    log = cv2.utils.logging
    level = log.getLogLevel()
    log.setLogLevel(log.LOG_LEVEL_SILENT)
    try:
        return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:  # sizes beyond OpenCV's own limits
        return None
    finally:
        log.setLogLevel(level)


def decode_image(
    content: bytes, path: str, max_megapixels: float = MAX_MEGAPIXELS, option: str = ''
) -> Tensor:
    """File content -> (3, H, W) RGB float32 in [0, 1]; grey is repeated, alpha dropped.

    Args, Raises: as ``decode_array``.
    """
    image = decode_array(content, path, max_megapixels, option)
    if image.ndim == 2:
        image = image[..., None]
    rgb = image[..., 2::-1] if image.shape[2] >= 3 else image[..., :1].repeat(3, axis=2)
    return from_levels(rgb)[0]


class ImageSource:
    """The images of one data root, by name.

    Args:
        option: the option that holds the root, for messages, as in ``datasets:Set5:dataroot_gt``.
        root: a folder, or an LMDB folder with BasicSR's ``meta_info.txt``.
        backend: ``disk`` or ``lmdb``.
        max_megapixels: larger images are refused by their header. Default: 128.

    Raises:
        FileNotFoundError: if the folder, or a file of the LMDB, does not exist.
        ValueError: if an LMDB's name does not end in ``.lmdb``, or it is damaged.
    """

    def __init__(
        self,
        option: str,
        root: str | os.PathLike,
        backend: Backend = 'disk',
        max_megapixels: float = MAX_MEGAPIXELS,
    ) -> None:
        self.option = option
        self.max_megapixels = max_megapixels
        self.root = str(expanded(root))
        self.backend = backend
        self._folders: dict[str, frozenset[str]] = {}
        self._names_by_key: dict[str, dict[str, list[str]]] = {}
        if backend == 'lmdb' and not self.root.rstrip('/').endswith('.lmdb'):
            raise ValueError(
                f'{option} is {self.root}, but with io_backend lmdb it must end in .lmdb. '
                'Build one with `python -m defsr.tools.create_lmdb`, or use io_backend disk.'
            )
        if not osp.isdir(self.root):
            raise FileNotFoundError(f'{option} is {self.root}, which is not an existing folder.')
        self._keys: dict[str, str] = {}
        if backend == 'lmdb':
            self._keys = {image_key(name): name for name in read_meta(option, self.root)}
            check_lmdb(option, self.root)

    def names(self) -> list[str]:
        """Every image directly in the root, sorted.

        Raises:
            ValueError: if there is none, two differ in their extension only, or one is not UTF-8 or
                has a line break in it.
        """
        if self.backend == 'lmdb':
            names = sorted(self._keys.values())
        else:
            names = sorted(n for n in self._listing('') if n.lower().endswith(DATA_SUFFIXES))
        if not names:
            raise ValueError(
                f'{self.option} is {self.root}, which has no images ({" ".join(DATA_SUFFIXES)}).'
            )
        seen: dict[str, str] = {}
        for name in names:
            check_text(f'{self.option}: the name of an image', name)
            other = seen.setdefault(image_key(name), name)
            if other != name:
                raise ValueError(
                    f'{self.option} is {self.root}, where {other} and {name} differ in their '
                    'extension only. Rename or remove one.'
                )
        return names

    def find(self, name: str, *, any_extension: bool = False) -> str:
        """The stored name of image ``name``; an LMDB does not care about the extension.

        Args:
            name: relative to the root, with or without folders.
            any_extension: also take an image of that name with another extension (a cache of
                PNGs made from JPEGs), in capitals or not.

        Raises:
            FileNotFoundError: if there is none.
        """
        if self.backend == 'lmdb':
            candidates = [self._keys.get(image_key(name), '')]
        else:
            folder, base = osp.split(name)
            candidates = [base] if base in self._listing(folder) else []
            if any_extension:
                candidates += self._by_key(folder).get(image_key(base), [])
            candidates = [name.removesuffix(base) + found for found in candidates]
        if not candidates or not candidates[0]:
            raise FileNotFoundError(f'{self.option} is {self.root}, which has no image {name}.')
        return candidates[0]

    def path(self, name: str) -> str:
        """Where the image is; in an LMDB, where it would be if that were a folder."""
        return osp.join(self.root, name)

    def read(self, name: str) -> Tensor:
        """The image as (3, H, W) RGB float32 in [0, 1]. Errors: ``decode_array``."""
        content, block = self.read_bytes(name), self.option.rpartition(':')[0]
        return decode_image(content, self.path(name), self.max_megapixels, block)

    def read_bytes(self, name: str) -> bytes:
        """The encoded image. OSError, or ValueError from an LMDB, if it cannot be had."""
        if self.backend == 'lmdb':
            return read_lmdb(self.option, self.root, image_key(name))
        with open(self.path(name), 'rb') as file:
            return file.read()

    def _listing(self, folder: str) -> frozenset[str]:
        """File names of one folder, listed once: a check of every pair costs no stat call.

        Hidden files are none of its images: macOS writes a ``._x.png`` beside each.
        """
        if folder not in self._folders:
            path = osp.join(self.root, folder)
            entries = os.scandir(path) if osp.isdir(path) else ()
            self._folders[folder] = frozenset(
                e.name for e in entries if e.is_file() and not e.name.startswith('.')
            )
        return self._folders[folder]

    def _by_key(self, folder: str) -> dict[str, list[str]]:
        """The images of one folder by their names without the extension, made once, too."""
        if folder not in self._names_by_key:
            names = self._names_by_key[folder] = {}
            for name in sorted(self._listing(folder)):
                if name.lower().endswith(DATA_SUFFIXES):
                    names.setdefault(image_key(name), []).append(name)
        return self._names_by_key[folder]
