"""What there is to enhance: the low-resolution images behind a data set's block, each once."""

from __future__ import annotations

from pathlib import PurePosixPath

from torch import Tensor

from defsr.data.cache_record import GIVEN
from defsr.data.image_source import ImageSource, image_key
from defsr.data.pair_list import read_pair_list
from defsr.data.triplet_options import TripletOptions
from defsr.images.header import check_megapixels, image_size


class EnhanceSource:
    """The images from which one cache is made, under the names that the cache will have.

    For ``de`` these are the inputs, each as ``RefTripletDataset`` would give its ``lq``. For
    ``ref_de`` they are the references, degraded in the same way.

    Args:
        options: of the data set.
        kind: ``de`` or ``ref_de``.

    Attributes:
        images: name in the cache (``a.png``) -> name in the folder or LMDB it is read from.
        lq: how the low-resolution images are made, ``matlab`` or ``pil``; ``given`` if they are
            files.

    Raises:
        ValueError: for images that would be stored under one name or outside of the cache.
        FileNotFoundError: for folders and listed images that do not exist.
    """

    def __init__(self, options: TripletOptions, kind: str) -> None:
        self.options = options
        self.kind = kind
        self.sources = {
            root: ImageSource(
                f'{options.block}:dataroot_{root}', folder, options.backend, options.max_megapixels
            )
            for root, folder in options.roots.items()
            if root in ('gt', 'lq') or (root, kind) == ('ref', 'ref_de')
        }
        self._main = 'gt' if 'gt' in self.sources else 'lq'
        self._root = 'ref' if 'ref' in self.sources else self._main
        self._reads_lq = 'lq' in self.sources
        self.lq = GIVEN if kind == 'de' and self._reads_lq else options.degradation.name
        self.images: dict[str, str] = {}
        for name in self._names():
            self._add(name)

    def lq_size(self, name: str) -> tuple[int, int]:
        """(h, w) of what will be enhanced, from the file's header.

        Raises:
            ValueError: for what is no image, cut off, too large or too small.
            OSError: if the file cannot be read.
        """
        root, stored = self._file(name)
        source, path = self.sources[root], self.path(name)
        size = image_size(source.read_bytes(stored), path)
        check_megapixels(path, size, source.max_megapixels, f'{self.options.block}:max_megapixels')
        for _ in range(self._num_degradations(root)):
            size = self.options.degradation.small_size(size, path)
        return size

    def read_lq(self, name: str) -> Tensor:
        """(3, h, w) RGB in [0, 1], in 8-bit levels if it was degraded here. Errors: ``lq_size``."""
        root, stored = self._file(name)
        image = self.sources[root].read(stored)
        for _ in range(self._num_degradations(root)):
            _, image = self.options.degradation.make_lq(image, self.path(name))
        return image

    def path(self, name: str) -> str:
        """Where an image comes from, for messages."""
        root, stored = self._file(name)
        return self.sources[root].path(stored)

    def _file(self, name: str) -> tuple[str, str]:
        """Data root and name of the file from which a low-resolution image is made."""
        stored = self.images[name]
        if self._root == self._main and self._reads_lq:
            return 'lq', self.sources['lq'].find(stored, any_extension=self._main != 'lq')
        return self._root, stored

    def _num_degradations(self, root: str) -> int:
        """GT -> lq is one; with ``dataroot_ref: lq`` the input serves as reference: one more."""
        from_hr = 0 if root == 'lq' else 1
        return from_hr + (self.kind == 'ref_de' and root != 'ref')

    def _names(self) -> list[str]:
        """As they are stored, in the order of names; from the pair list or from the folder."""
        source, pair_list = self.sources[self._root], self.options.pair_list
        if pair_list is not None:
            pairs = read_pair_list(pair_list, f'{self.options.block}:pair_list')
            is_ref = self._root == 'ref'
            listed = {name for pair in pairs for name in (pair.refs if is_ref else (pair.gt,))}
            if not listed:
                raise ValueError(
                    f'{self.options.block}:pair_list has no references, of which ref_de is made. '
                    'Write `gt ref1 [ref2 ...]`, or leave ref_de out of enhance.'
                )
            return sorted({source.find(name) for name in listed})
        if self._root != 'ref':
            return source.names()
        inputs = self.sources[self._main].names()
        return sorted({source.find(name, any_extension=True) for name in inputs})

    def _add(self, stored: str) -> None:
        path = PurePosixPath(stored)
        if path.is_absolute() or '..' in path.parts:
            raise ValueError(
                f'{self.options.block}: {stored} lies outside of its folder, so it has no place in '
                'a cache. Set the dataroot_* option to a folder that holds it.'
            )
        name = f'{image_key(stored)}.png'
        if name in self.images:
            raise ValueError(
                f'{self.options.block}: {self.images[name]} and {stored} differ in their extension '
                f'only, but would both be stored as {name}. Rename one.'
            )
        self.images[name] = stored
        self._file(name)  # an lq that is missing is an error now
