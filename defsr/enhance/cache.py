"""A cache of enhanced images while it is made: every entry is whole, and by one enhancer."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from defsr.data.cache_record import RECORD, fault_of, read_record, write_record
from defsr.data.image_source import ImageSource, decode_array, image_key
from defsr.images.levels import to_levels
from defsr.images.png import write_png
from defsr.utils.files import clear_remains
from defsr.utils.paths import expanded

MAX_MEGAPIXELS = float('inf')  # what was made here was read under the data set's own limit


class EnhancedCache:
    """The folder or LMDB of one cache. For an LMDB, images gather in ``<out>.parts`` first.

    Args:
        option: what the user sets to ``out``, for messages.
        out: a folder, or an LMDB if its name ends in ``.lmdb``.
        record: what ``make_record`` says of it.

    Attributes:
        folder: where finished images are.
    """

    def __init__(self, option: str, out: str | Path, record: Mapping[str, Any]) -> None:
        self.option = option
        self.out = expanded(out)
        self.record = record
        self.is_lmdb = self.out.suffix == '.lmdb'
        self.folder = self.out.with_name(f'{self.out.name}.parts') if self.is_lmdb else self.out

    def begin(self, names: Collection[str]) -> bool:
        """Make the folder, or go on in one that is there; clear away what a killed run left.

        Args:
            names: of all images that the cache will have.

        Returns:
            False if it is an LMDB that is finished.

        Raises:
            ValueError: if another enhancer began or made it, or it is something else.
            OSError: if the disk does not take it.
        """
        if self.is_lmdb:
            clear_remains(self.out)
        for place in (self.out, self.folder):
            if place.exists() and not place.is_dir():
                raise ValueError(f'{self.option} is {self.out}, but {place} is a file. Change out.')
        if self.is_lmdb and self.out.exists():
            self._check_record(self.out)
            self._check_finished(names)
            shutil.rmtree(self.folder, ignore_errors=True)
            return False
        self.folder.mkdir(parents=True, exist_ok=True)
        for temporary in self.folder.rglob('.*.tmp'):
            temporary.unlink(missing_ok=True)
        if any(self.folder.iterdir()):
            self._check_record(self.folder)
        else:
            write_record(self.folder, self.record)
        return True

    def has(self, name: str, size: tuple[int, int]) -> bool:
        """Whether an image is there, whole and of ``size`` (H, W)."""
        path = self.folder / name
        try:
            image = decode_array(path.read_bytes(), str(path), MAX_MEGAPIXELS)
        except (FileNotFoundError, ValueError):
            return False
        return image.dtype == np.uint8 and image.shape == (*size, 3)

    def put(self, name: str, image: Tensor) -> None:
        """Store (3, H, W) RGB, clamped to [0, 1] and rounded to 8 bit: whole, or not at all.

        Raises:
            OSError: if the disk does not take it.
        """
        write_png(to_levels(image)[..., ::-1], self.folder / name)

    def _check_record(self, folder: Path) -> None:
        what = f'{self.option} is {self.out}'
        if folder != self.out:
            what += f', begun in {folder}'
        record = read_record(self.option, folder)
        if record is None:
            raise ValueError(
                f'{what}, which has files but no {RECORD}: it is no cache. '
                'Change out, or remove what is there.'
            )
        fault = fault_of(record, self.record)
        if fault:
            raise ValueError(f'{what}, which {fault}. Remove the folder, or change out.')

    def _check_finished(self, names: Collection[str]) -> None:
        """The LMDB opens, and lists every name."""
        source = ImageSource(self.option, self.out, 'lmdb')
        there = {image_key(name) for name in source.names()}
        missing = [name for name in names if image_key(name) not in there]
        if missing:
            raise ValueError(
                f'{self.option} is {self.out}, which is finished, but has not {missing[0]} '
                f'({len(missing)} of {len(names)} images are missing). Remove it, or change out.'
            )
