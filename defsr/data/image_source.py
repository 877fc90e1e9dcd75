"""The images behind one ``dataroot_*`` option: a folder or an LMDB, read the same way."""

from __future__ import annotations

import os
import re
from functools import cache
from os import path as osp
from pathlib import PurePosixPath
from typing import Literal

import cv2
import numpy as np
import torch
from basicsr.utils import FileClient
from torch import Tensor

IMAGE_SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp')
_META_LINE = re.compile(r'(.+) \(\d+,\d+,\d+\) \S+')


def image_key(name: str) -> str:
    """A name without its image extension: the LMDB key. Other dots stay (``a.b.png``: ``a.b``)."""
    path = PurePosixPath(name)
    return str(path.with_suffix('')) if path.suffix.lower() in IMAGE_SUFFIXES else name


def decode_array(content: bytes | None, path: str) -> np.ndarray:
    """File content -> (H, W), (H, W, 3) BGR or (H, W, 4) BGRA, uint8 or uint16.

    An orientation tag is ignored: data sets are measured in stored pixels.

    Raises:
        ValueError: for what is no image, and for pixels that are neither 8 nor 16 bit.
    """
    buffer = np.frombuffer(content or b'', np.uint8)
    image = cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED) if buffer.size else None
    if image is None:
        raise ValueError(f'{path} cannot be read as an image. Replace the file or leave it out.')
    if image.dtype not in (np.uint8, np.uint16):
        raise ValueError(f'{path} has {image.dtype} pixels, but must have 8 or 16 bits each.')
    return image


def decode_image(content: bytes | None, path: str) -> Tensor:
    """File content -> (3, H, W) RGB float32 in [0, 1]; grey is repeated, alpha dropped.

    Raises:
        ValueError: as ``decode_array``.
    """
    image = decode_array(content, path)
    peak = np.iinfo(image.dtype).max
    if image.ndim == 2:
        image = image[..., None]
    rgb = image[..., 2::-1] if image.shape[2] >= 3 else image[..., :1].repeat(3, axis=2)
    return torch.from_numpy(rgb.transpose(2, 0, 1).astype(np.float32) / peak).contiguous()


class ImageSource:
    """The images of one data root, by name.

    Args:
        option: the option that holds the root, for messages, as in ``datasets:Set5:dataroot_gt``.
        root: a folder, or an LMDB folder with BasicSR's ``meta_info.txt``.
        backend: ``disk`` or ``lmdb``.

    Raises:
        FileNotFoundError: if the folder, or the LMDB's ``meta_info.txt``, does not exist.
        ValueError: if an LMDB's name does not end in ``.lmdb``, or its meta file is damaged.
    """

    def __init__(
        self, option: str, root: str | os.PathLike, backend: Literal['disk', 'lmdb'] = 'disk'
    ) -> None:
        self.option = option
        self.root = osp.expanduser(os.fspath(root))
        self.backend = backend
        self._folders: dict[str, frozenset[str]] = {}
        if backend == 'lmdb' and not self.root.rstrip('/').endswith('.lmdb'):
            raise ValueError(
                f'{option} is {self.root}, but with io_backend lmdb it must end in .lmdb. '
                'Build one with `python -m defsr.tools.create_lmdb`, or use io_backend disk.'
            )
        if not osp.isdir(self.root):
            raise FileNotFoundError(f'{option} is {self.root}, which is not an existing folder.')
        self._keys = self._read_meta() if backend == 'lmdb' else {}

    def names(self) -> list[str]:
        """Every image directly in the root, sorted.

        Raises:
            ValueError: if there is none, or two differ in their extension only.
        """
        if self.backend == 'lmdb':
            names = sorted(self._keys.values())
        else:
            names = sorted(n for n in self._listing('') if n.lower().endswith(IMAGE_SUFFIXES))
        if not names:
            raise ValueError(
                f'{self.option} is {self.root}, which has no images ({" ".join(IMAGE_SUFFIXES)}).'
            )
        seen: dict[str, str] = {}
        for name in names:
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
                PNGs made from JPEGs).

        Raises:
            FileNotFoundError: if there is none.
        """
        if self.backend == 'lmdb':
            candidates = [self._keys.get(image_key(name), '')]
        else:
            key = image_key(name)
            others = [key + suffix for suffix in IMAGE_SUFFIXES] if any_extension else []
            candidates = [c for c in (name, *others) if self._has_file(c)]
        if not candidates or not candidates[0]:
            raise FileNotFoundError(f'{self.option} is {self.root}, which has no image {name}.')
        return candidates[0]

    def path(self, name: str) -> str:
        """Where the image is; in an LMDB, where it would be if that were a folder."""
        return osp.join(self.root, name)

    def read(self, name: str) -> Tensor:
        """The image as (3, H, W) RGB float32 in [0, 1]. ValueError if it cannot be decoded."""
        return decode_image(self.read_bytes(name), self.path(name))

    def read_bytes(self, name: str) -> bytes | None:
        """The encoded image; None if an LMDB lacks what its meta file lists."""
        if self.backend == 'disk':
            return FileClient('disk').get(self.path(name))
        data = os.stat(osp.join(self.root, 'data.mdb'))
        return _lmdb_client(osp.realpath(self.root), data.st_ino).get(image_key(name), 'default')

    def _read_meta(self) -> dict[str, str]:
        meta = osp.join(self.root, 'meta_info.txt')
        if not osp.isfile(meta):
            raise FileNotFoundError(
                f'{self.option} is {self.root}, which has no meta_info.txt. '
                'Build it anew with `python -m defsr.tools.create_lmdb`.'
            )
        with open(meta, encoding='utf-8') as file:
            lines = [line.strip() for line in file if line.strip()]
        matches = [_META_LINE.fullmatch(line) for line in lines]
        if None in matches:
            line = lines[matches.index(None)]
            raise ValueError(f'{meta} has the line {line!r}, expected `name.png (h,w,c) level`.')
        return {image_key(match[1]): match[1] for match in matches}

    def _has_file(self, name: str) -> bool:
        folder, base = osp.split(name)
        return base in self._listing(folder)

    def _listing(self, folder: str) -> frozenset[str]:
        """File names of one folder, listed once: a check of every pair costs no stat call."""
        if folder not in self._folders:
            path = osp.join(self.root, folder)
            entries = os.scandir(path) if osp.isdir(path) else ()
            self._folders[folder] = frozenset(e.name for e in entries if e.is_file())
        return self._folders[folder]


@cache
def _lmdb_client(path: str, inode: int) -> FileClient:
    """One reader per LMDB and process, opened on first use.

    LMDB refuses a second opening in one process, and five validation sets may share one file.
    A forked worker goes on with its parent's (read-only, without locks); ``inode`` tells a
    rebuilt file from the old one.
    """
    return FileClient('lmdb', db_paths=[path], client_keys=['default'])
